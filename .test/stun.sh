# stun: what a STUN server may answer, by UDP and by TCP, and what is made of it
# cases: at once

stun_setup() {
    need 'STUN servers that lie' python3 || return
    bg stun python3 .test/stun.py "$tmp/stun"
    until_true test -f "$tmp/stun" && return
    fail 'the fake STUN servers are up' "$(cat "$tmp/stun.err")"
    return 1
}
server() {                                          # MODE: where the fake STUN server of that mode is
    echo "127.0.0.1:$(awk -v mode="$1" '$1 == mode { print $2 }' "$shared/stun")"
}
addr() {                                            # SETTING...: pashlib addr, with STUN; $status, $tmp/out, $tmp/err
    run env -u PASH_NO_HOLEPUNCH -u PASH_PUBLIC_IP "$@" $P addr
}
value() { sed -n "s/^$1=//p" "$tmp/out"; }          # NAME: what pashlib addr has printed for it
failed_with() {                                     # NAME SERVER REASON: addr has logged why STUN failed
    has "$1" "$tmp/err" "^pashlib: STUN discovery failed: $2: $3\$"
}

# ---- UDP ----

stun_udp_answers() { # by UDP, a good answer is taken, however late, and whatever came before it
    while read -r mode want; do
        addr PASH_STUN_TIMEOUT_MS=7000 PASH_STUN_SERVER="$(server "$mode")"
        is "$mode: exit 0" 0 "$status"
        is "$mode: the address" "$want" "$(value external_addr)"
    done <<'END'
good 198.51.100.7:4242
mapped 198.51.100.7:4242
ipv6 [2001:db8::9]:4242
forged 198.51.100.7:4242
late 198.51.100.7:4242
lose1 198.51.100.7:4242
lose2 198.51.100.7:4242
END
}
stun_udp_not_believed() { # by UDP, an answer that cannot be believed does not end the wait for a better one
    for mode in wrongid wrongcookie badlen cutattr unspec port0 multicast errid silent othersock noaddr; do
        addr PASH_STUN_TIMEOUT_MS=150 PASH_STUN_SERVER="$(server $mode)"
        failed_with "$mode: the wait goes on" "$(server $mode)" 'no answer within 150 ms'
        is "$mode: the local address" local "$(value source)"
    done
}
stun_udp_failures() { # by UDP, a server that answers with an error, and one that is not there, fail at once
    addr PASH_STUN_SERVER="$(server error)"
    failed_with 'an error: its code and reason, escaped' "$(server error)" 'error 420 Un\\x1b\[31mknown'
    addr PASH_STUN_SERVER=127.0.0.1:9
    failed_with 'nobody listens' 127.0.0.1:9 'Connection refused'
}
stun_udp_schedule() { # a request is sent again as RFC 8489 has it: after 0, 500, 1500, 3500 ms
    printf '%s\n' 0 500 1500 3500 >"$tmp/due"
    # A busy machine may be late once, but not each time.
    for try in 1 2 3 4; do
        addr PASH_STUN_TIMEOUT_MS=5000 PASH_STUN_SERVER="$(server silent)"
        transmissions >"$tmp/sent"
        late=$(awk 'NR == 1 { first = $3 } { print int(($3 - first) * 1000) }' "$tmp/sent" |
            paste - "$tmp/due" | awk '$1 < $2 - 20 || $1 > $2 + 900')
        [ -n "$late" ] || break
    done
    is 'four transmissions in 5 s' 4 "$(grep -c . "$tmp/sent")"
    is 'the same request each time' 1 "$(awk '{ print $6 }' "$tmp/sent" | sort -u | grep -c .)"
    is 'each is a Binding request of 20 bytes' 4 "$(grep -c -E ' asked 000100002112a442[0-9a-f]{24}$' "$tmp/sent")"
    is 'each when it is due, or up to 900 ms later (which was not so: ms, due)' '' "$late"
}
transmissions() {                                   # what the silent server has got from addr; it asks from the port of
    port=$(value local_addr | sed 's/.*://')        # its stream, which no other request to this server has
    until_true grep -q "^udp silent [0-9.]* $port asked " "$shared/stun.log"
    grep "^udp silent [0-9.]* $port asked " "$shared/stun.log"
}

# ---- TCP ----

stun_tcp_answers() { # by TCP, a good answer is taken, in whatever pieces it comes
    while read -r mode want; do
        addr PASH_STUN_SERVER="tcp:$(server "$mode")"
        is "$mode: the address" "$want" "$(value external_addr)"
    done <<'END'
good 198.51.100.7:4242
mapped 198.51.100.7:4242
ipv6 [2001:db8::9]:4242
forged 198.51.100.7:4242
pieces 198.51.100.7:4242
late 198.51.100.7:4242
END
}
stun_tcp_not_believed() { # by TCP, an answer that cannot be believed does not end the wait for a better one
    for mode in wrongid wrongcookie unspec noaddr silent; do
        addr PASH_STUN_TIMEOUT_MS=150 PASH_STUN_SERVER="tcp:$(server $mode)"
        failed_with "$mode: the wait goes on" "tcp:$(server $mode)" 'no answer within 150 ms'
    done
}
stun_tcp_failures() { # by TCP, an answer too long or cut, an error, and a server that is not there fail at once
    while read -r mode reason; do
        addr PASH_STUN_SERVER="tcp:$(server "$mode")"
        failed_with "$mode" "tcp:$(server "$mode")" "$reason"
    done <<'END'
huge its answer is too long
half it closed the connection
error error 420 Un\\x1b\[31mknown
END
    addr PASH_STUN_SERVER=tcp:127.0.0.1:9
    failed_with 'nobody listens' tcp:127.0.0.1:9 'Connection refused'
}
stun_tcp_one_request() { # by TCP, one request is sent, and no more, even where the answer is late, forged or missing
    for mode in good late forged wrongid silent; do
        addr PASH_STUN_TIMEOUT_MS=1200 PASH_STUN_SERVER="tcp:$(server $mode)"
        port=$(value local_addr | sed 's/.*://')
        until_true grep "^tcp $mode [0-9.]* $port gone " "$shared/stun.log"
        has "$mode: a Binding request of 20 bytes" "$shared/stun.log" \
            "^tcp $mode [0-9.]* $port asked 000100002112a442[0-9a-f]\{24\}\$"
        has "$mode: and no other" "$shared/stun.log" "^tcp $mode [0-9.]* $port gone 0\$"
    done
}

# ---- time ----

stun_short_timeout() { # a time-out shorter than the head start of 750 ms is kept
    # Who waits longer asks again after 500 ms. A busy machine may do so once, but not each time.
    for try in 1 2 3 4 5 6 7 8 9 10; do
        addr PASH_STUN_TIMEOUT_MS=50 PASH_STUN_SERVER="$(server silent)"
        asked=$(transmissions | grep -c .)
        [ "$asked" != 1 ] || break
    done
    is 'with PASH_STUN_TIMEOUT_MS=50 it has ended before it would ask again' 1 "$asked"
    failed_with 'it says how long it waited' "$(server silent)" 'no answer within 50 ms'
}
