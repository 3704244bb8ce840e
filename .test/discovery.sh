# discovery: the address that STUN gives: one server or several, by name, for addr and for streams

# Where one of the two programs is missing, the cases that need it are skipped.
discovery_setup() {
    if command -v turnserver >/dev/null; then
        bg coturn turnserver -n --stun-only --no-cli --no-tls --no-dtls -L 127.0.0.1 -L ::1 -p 3478 \
            --no-stdout-log --log-file=/dev/null --pidfile "$tmp/turnserver-pid"
        until_true coturn_answers || fail 'coturn is up' "$(cat "$tmp/err" "$tmp/coturn.err")"
    fi
    if command -v python3 >/dev/null; then
        bg stun python3 .test/stun.py "$tmp/stun"
        until_true test -f "$tmp/stun" || fail 'the fake STUN servers are up' "$(cat "$tmp/stun.err")"
    fi
}
coturn_answers() {
    addr PASH_STUN_SERVER=127.0.0.1
    [ "$(value source)" = stun ]
}
server() {                                          # MODE: where the fake STUN server of that mode is
    echo "127.0.0.1:$(awk -v mode="$1" '$1 == mode { print $2 }' "$shared/stun")"
}
addr() {                                            # SETTING...: pashlib addr, with STUN; $status, $tmp/out, $tmp/err
    run env -u PASH_NO_HOLEPUNCH -u PASH_PUBLIC_IP "$@" $P addr
}
value() { sed -n "s/^$1=//p" "$tmp/out"; }          # NAME: what pashlib addr has printed for it

# ---- one server ----

discovery_coturn_udp() { # a real STUN server, asked by UDP, over IPv4 and IPv6 and by its name
    need 'coturn' turnserver || return
    addr PASH_STUN_SERVER=127.0.0.1
    is 'exit 0, and the address' '0 127.0.0.1' "$status $(value external_addr | sed 's/:.*//')"
    is 'it sees the port that the stream has' "$(value local_addr)" "$(value external_addr)"
    has 'it is told' "$tmp/err" \
        '^pashlib: STUN discovery succeeded - local_addr: 127.0.0.1:[0-9]* external_addr: 127.0.0.1:[0-9]*$'
    addr PASH_STUN_SERVER='udp:[::1]:3478'
    has 'over IPv6' "$tmp/out" '^external_addr=\[::1\]:[0-9]*$'
    addr PASH_STUN_SERVER=localhost
    has 'a name, at port 3478' "$tmp/out" '^source=stun$'
    addr PASH_PUBLIC_ADDR=203.0.113.7:21000 PASH_STUN_SERVER=127.0.0.1
    is 'PASH_PUBLIC_ADDR gives the first port, STUN the address' '127.0.0.1:21000 127.0.0.1:21000 stun' \
        "$(value local_addr) $(value external_addr) $(value source)"
}
discovery_coturn_tcp() { # a real STUN server, asked by TCP, over IPv4 and IPv6
    need 'coturn' turnserver || return
    addr PASH_STUN_SERVER=tcp:127.0.0.1
    is 'exit 0, and by STUN' '0 stun' "$status $(value source)"
    is 'it sees the port that the stream has' "$(value local_addr)" "$(value external_addr)"
    addr PASH_STUN_SERVER='tcp:[::1]:3478'
    has 'over IPv6' "$tmp/out" '^external_addr=\[::1\]:[0-9]*$'
    addr PASH_STUN_SERVER=tcp:localhost
    is 'by its name' "stun $(value local_addr)" "$(value source) $(value external_addr)"
}
discovery_few_descriptors() { # each of 256 streams is answered, though descriptors do not suffice for two servers
    need 'coturn' turnserver || return
    streams=$(seq 256 | sed 's/.*/recv*few&*0*1*x/')
    run sh -c 'ulimit -n 1024 && exec "$@"' sh env -u PASH_NO_HOLEPUNCH -u PASH_PUBLIC_IP \
        PASH_STUN_SERVER='127.0.0.1,[::1]:3478' PASH_PEER_TIMEOUT_MS=1 "$P" $streams
    is 'answers' 256 "$(grep -c 'STUN discovery succeeded' "$tmp/err")"
    has 'it says which server is not asked' "$tmp/err" '^pashlib: too few descriptors to ask STUN server ::1, too$'
}
discovery_no_such_name() { # a server whose name does not exist
    addr PASH_STUN_SERVER=no.such.name.invalid.
    has 'a name that ends with a dot' "$tmp/err" 'name look-up of no.such.name.invalid.: '
    addr PASH_STUN_SERVER=no.such.name.invalid
    has 'a name that does not' "$tmp/err" \
        '^pashlib: STUN discovery failed: no.such.name.invalid:3478: name look-up of no.such.name.invalid: '
}
discovery_hanging_name_server() { # a name server that never answers costs no more than the time-out
    need 'a name server that hangs' python3 || return
    if [ -z "${PASHLIB_NS-}" ]; then
        skip 'a name server that hangs' 'no namespace could be made'
        return
    fi
    echo 'nameserver 127.0.0.1' >"$tmp/resolv.conf"
    if ! mount --bind "$tmp/resolv.conf" /etc/resolv.conf 2>/dev/null; then
        skip 'a name server that hangs' 'mount --bind does not work here'
        return
    fi
    at_end 'umount /etc/resolv.conf'
    bg dns python3 .test/holdport.py udp 127.0.0.1 53
    until_true grep -q up "$tmp/dns.out"
    addr PASH_STUN_TIMEOUT_MS=1200 PASH_STUN_SERVER=stun.example.net
    is 'exit 0' 0 "$status"
    has 'it says why STUN failed' "$tmp/err" \
        'failed: stun.example.net:3478: no answer from the resolver within 1200 ms'
    has 'it says what it waits for' "$tmp/err" 'waiting for STUN'
    addr PASH_STUN_SERVER="stun.example.net,$(server good)"
    has 'another server is there: it is used' "$tmp/out" '^source=stun$'
    run env AWS_EC2_METADATA_DISABLED=false AWS_EC2_METADATA_SERVICE_ENDPOINT=http://imds.example.net \
        AWS_REGION=us-east-1 AWS_ENDPOINT_URL=http://127.0.0.1:9 PASH_RENDEZVOUS=dynamodb:rdv $P send k 0 1
    is 'the credentials of a role: exit status' 1 "$status"
    has 'they are waited for 5 s' "$tmp/err" 'instance role: imds.example.net: no answer within 5 s$'
}

# ---- several servers ----

discovery_mapping() { # two servers that answer by the same way show how the NAT maps
    need 'STUN servers that lie' python3 || return
    addr PASH_STUN_SERVER="$(server other),$(server good)"
    is 'they differ' '0 endpoint-dependent' "$status $(value mapping)"
    addr PASH_STUN_SERVER="tcp:$(server good),tcp:$(server other)"
    is 'they differ, over TCP' '0 endpoint-dependent' "$status $(value mapping)"
    # The second answer comes after 500 ms, and is waited for until 750 ms: a busy machine may miss that, once.
    for try in 1 2 3 4 5 6 7 8 9 10; do
        far=$(server far)
        addr PASH_STUN_SERVER="$(server good),127.0.0.2:${far##*:}"
        [ -z "$(value mapping)" ] || break
    done
    is 'they agree, though a packet was lost' '0 endpoint-independent' "$status $(value mapping)"
}
discovery_no_mapping() { # answers that cannot be compared show nothing, and no mapping is printed
    need 'STUN servers that lie' python3 || return
    addr PASH_STUN_SERVER="$(server good),$(server silent)"
    is 'no second answer' '0 stun ' "$status $(value source) $(value mapping)"
    addr PASH_STUN_SERVER="$(server good),$(server ipv6)"
    is 'IPv4 and IPv6' '0 stun ' "$status $(value source) $(value mapping)"
    addr PASH_STUN_SERVER="$(server good),$(server lose1)"
    is 'two ports of one address that agree' '0 stun ' "$status $(value source) $(value mapping)"
    addr PASH_STUN_SERVER="$(server other),tcp:$(server late)"
    is 'UDP and TCP' '0 stun ' "$status $(value source) $(value mapping)"
    need 'coturn' turnserver || return
    addr PASH_STUN_SERVER=127.0.0.1,udp:localhost:3478
    is 'one server by two names' '0 stun ' "$status $(value source) $(value mapping)"
    addr PASH_STUN_SERVER='127.0.0.1,[::1]:3478'
    is 'IPv4 and IPv6 of one server' '0 stun ' "$status $(value source) $(value mapping)"
}
discovery_one_of_two() { # where one of two servers fails, the other one's answer is taken
    need 'STUN servers that lie' python3 || return
    addr PASH_STUN_SERVER="127.0.0.1:9,$(server good)"
    is 'one is not there: the address' 198.51.100.7:4242 "$(value external_addr)"
    is 'one is not there: no mapping' '' "$(value mapping)"
    addr PASH_STUN_SERVER="127.0.0.1:9,$(server error)"
    has 'both fail: each has its reason' "$tmp/err" \
        "failed: 127.0.0.1:9: Connection refused; $(server error): error 420"
}
discovery_tcp_preferred() { # an answer by TCP is preferred to one by UDP, if it comes within the head start
    need 'STUN servers that lie' python3 || return
    # The answer by TCP comes after 300 ms, the head start is 750 ms: a busy machine may miss that, once.
    for try in 1 2 3 4 5 6 7 8 9 10; do
        addr PASH_STUN_SERVER="$(server other),tcp:$(server late)"
        [ "$(value external_addr)" != 198.51.100.7:4242 ] || break
    done
    is 'the answer by TCP comes later' 198.51.100.7:4242 "$(value external_addr)"
    addr PASH_STUN_SERVER="$(server good),tcp:$(server silent)"
    is 'TCP is silent: the answer by UDP' 198.51.100.7:4242 "$(value external_addr)"
    has 'TCP is silent: it is told' "$tmp/err" \
        '^pashlib: no tcp: server answered in time: TCP may have another address$'
}

# ---- streams ----

discovery_each_stream() { # each of several streams asks for itself, and registers what it is told
    need 'STUN servers that lie' python3 || return
    bg R env -u PASH_NO_HOLEPUNCH PASH_PEER_TIMEOUT_MS=2000 PASH_STUN_SERVER="$(server good)" \
        $P "recv*a*1*0*$tmp/a" "recv*b*1*0*$tmp/b"
    until_true cp "$tmp/rdv/b/N_1" "$tmp/registered"
    is 'it is registered as deployments have it' \
        '{"local_addr":"127.0.0.1:PORT","external_addr":"198.51.100.7:4242"}' \
        "$(sed 's/\(127.0.0.1:\)[0-9]*/\1PORT/' "$tmp/registered")"
    ended R
    is 'nobody came: exit 1' 1 "$status"
    for key in a b; do
        has "stream $key tells of its own" "$tmp/R.err" "^pashlib: recv $key: STUN discovery succeeded"
    done
}
discovery_tcp_kept() { # the connection to a STUN server by TCP is kept until the stream's own stands
    need 'STUN servers that lie' python3 || return
    mkfifo "$tmp/fifo"
    bg S env -u PASH_NO_HOLEPUNCH PASH_STUN_SERVER="tcp:$(server mapped)" $P send k 1 2 "$tmp/fifo"
    until_true grep -q 'waiting for node 2' "$tmp/S.err"
    has 'it is registered as the server saw it' "$tmp/rdv/k/N_1" '"external_addr":"198.51.100.7:4242"'
    port=$(sed 's/.*local_addr":"127.0.0.1:\([0-9]*\)".*/\1/' "$tmp/rdv/k/N_1")
    has 'the server was asked from the port of the stream' "$shared/stun.log" "^tcp mapped [0-9.]* $port asked "
    sleep 0.3                                       # If it were closed too early, then by now.
    hasnt 'the connection to the server stays' "$shared/stun.log" "^tcp mapped [0-9.]* $port gone "
    bg R $P recv k 2 1
    until_true grep -q "^tcp mapped [0-9.]* $port gone " "$shared/stun.log"
    is 'it goes once the stream is connected, before there is data' 0 $?
    echo data >"$tmp/fifo"
    both 'exit statuses' '0 0'
    is 'the data' data "$(cat "$tmp/R.out")"
}
discovery_tcp_not_kept() { # where the STUN server closes that connection, it is told, and the stream goes on
    need 'STUN servers that lie' python3 || return
    bg S env -u PASH_NO_HOLEPUNCH PASH_STUN_SERVER="tcp:$(server brief)" $P send k 1 2 /dev/null
    kept='send k: the STUN server closed the connection that kept 198.51.100.7:4242'
    until_true grep -q "$kept: the NAT may give another port now" "$tmp/S.err"
    is 'it is told' 0 $?
    bg R $P recv k 2 1
    both 'exit statuses' '0 0'
    is 'it is told once' 1 "$(grep -c "$kept" "$tmp/S.err")"
}
discovery_tcp_same_port() { # by TCP, one process after the other can ask from the same port, at once
    need 'STUN servers that lie' python3 || return
    # With timestamps, Linux forgives a connection that was not reset. Only in our own namespace are they switched off.
    timestamps=/proc/sys/net/ipv4/tcp_timestamps
    if [ -n "${PASHLIB_NS-}" ] && [ -w $timestamps ]; then
        at_end "echo $(cat $timestamps) >$timestamps"
        echo 0 >$timestamps
    fi
    # The server answers once: where anything is left unread, Linux resets the connection by itself.
    for round in 1 2 3; do
        addr PASH_PUBLIC_ADDR=127.0.0.9:5000 PASH_STUN_SERVER="tcp:$(server mapped)"
        has "round $round: by STUN" "$tmp/out" '^source=stun$'
        is "round $round: the same port" 127.0.0.1:5000 "$(value local_addr)"
    done
}
