# connect: two ends find each other, prove themselves and choose one connection; what keeps them from it is told
#
# peer.py, greedy.py and strangers.py are peers and others, written from README by way of wire.py.

tenths() {                                          # FILE: how long the failure that it tells of took, in 0.1 s
    sed -n 's/.* within \([0-9.]*\) s\(:.*\)*$/\1/p' "$1" | awk '{ print int($1 * 10 + 0.5) }'
}
between() {                                         # NAME LEAST MOST GOT: numbers
    if [ "$4" -ge "$2" ] && [ "$4" -le "$3" ]; then pass "$1"; else fail "$1" "want: $2 to $3" " got: $4"; fi
}
# In one step, as pashlib does it. Nobody listens on port 9, which the cases name.
register() {                                        # NODE TEXT: a registration under the key k
    mkdir -p "$tmp/rdv/k"
    chmod 700 "$tmp/rdv" "$tmp/rdv/k"
    echo "$2" >"$tmp/rdv/k/new"
    mv "$tmp/rdv/k/new" "$tmp/rdv/k/N_$1"
}
port_of() {                                         # NODE: the port that it has registered under the key k
    sed 's/.*:\([0-9]*\)"}/\1/' "$tmp/rdv/k/N_$1"
}
# A peer written from README, which has registered before the other end comes, however long it takes to start.
fake() {                                            # PROCESS KEY ME PEER MODE
    bg "$1" python3 -B .test/peer.py "$tmp/rdv" "$2" "$3" "$4" "$5"
    until_true test -f "$tmp/rdv/$2/N_$3"
}

# ---- no peer, no connection ----

connect_no_peer() { # a peer that does not come: exit 1, and told at which place it was awaited, and for how long
    echo hello >"$tmp/in"
    run env PASH_PEER_TIMEOUT_MS=500 $P send k 0 1 "$tmp/in"
    is 'exit status' 1 "$status"
    has 'told' "$tmp/err" "^pashlib: send k: node 1 did not register at dir:$tmp/rdv within [0-9.]* s\$"
    between 'tenths of a second' 5 100 "$(tenths "$tmp/err")"
    left_nothing 'afterwards'
}
connect_refused() { # nobody listens at the peer's addresses: tried often, but not too often, and then told in full
    echo hello >"$tmp/in"
    bg S env PASH_CONNECT_TIMEOUT_MS=700 $P send k 0 1 "$tmp/in"
    until_true test -f "$tmp/rdv/k/N_0"
    register 1 '{"local_addr":"127.0.0.1:9","external_addr":"127.0.0.2:9"}'
    ended S
    is 'exit status' 1 "$status"
    addresses='(external 127.0.0.2:9, local 127.0.0.1:9) from 127.0.0.1:[0-9]*'
    late='\([0-9]* attempts timed out, \)\{0,1\}'   # on a busy machine, a refusal may come after the deadline
    has 'a failure names both ends and what was tried' "$tmp/S.err" \
        "^pashlib: send k: no connection to node 1 $addresses within [0-9.]* s: ${late}[0-9]* refused\$"
    took=$(tenths "$tmp/S.err")
    between 'it takes PASH_CONNECT_TIMEOUT_MS: tenths of a second' 7 100 "$took"
    attempts=$(sed -n 's/.* \([0-9]*\) refused$/\1/p' "$tmp/S.err")
    at_most 'at most 20 attempts at each of two addresses in a tenth of a second' $((2 * 20 * (took + 2))) "$attempts"
    between 'but many' $((2 * 20 * 2)) 1000000 "$attempts"
    has 'connecting from A to B' "$tmp/S.err" '^pashlib: send k: connecting from 127.0.0.1:[0-9]* to 127.0.0.2:9$'
}
connect_useless_address() { # a registration without a usable address counts as none
    echo hello >"$tmp/in"
    register 1 '{"local_addr":"0.0.0.0:9","external_addr":"239.1.1.1:9"}'
    run env PASH_PEER_TIMEOUT_MS=300 $P send k 0 1 "$tmp/in"
    has 'told' "$tmp/err" 'node 1 did not register'
}

# ---- leftovers: registrations that were there before this end came ----

connect_leftover() { # a leftover is tried for PASH_PEER_TIMEOUT_MS, not for PASH_CONNECT_TIMEOUT_MS
    echo hello >"$tmp/in"
    register 1 '{"local_addr":"127.0.0.1:9"}'
    run env PASH_CONNECT_TIMEOUT_MS=200 PASH_PEER_TIMEOUT_MS=1500 $P send k 0 1 "$tmp/in"
    has 'told' "$tmp/err" '(external none, local 127.0.0.1:9) from .* within [0-9.]* s: '
    between 'tenths of a second' 15 60 "$(tenths "$tmp/err")"
}
connect_leftover_goes() { # a leftover that is withdrawn is tried for 5 s more
    echo hello >"$tmp/in"
    register 1 '{"local_addr":"127.0.0.1:9"}'
    bg S env PASH_CONNECT_TIMEOUT_MS=200 $P send k 0 1 "$tmp/in"
    until_true grep -q connecting "$tmp/S.err"
    rm "$tmp/rdv/k/N_1"
    ended S
    between 'tenths of a second, where PASH_PEER_TIMEOUT_MS says 200' 50 150 "$(tenths "$tmp/S.err")"
}
connect_leftover_comes_back() { # a leftover that goes and comes back is one no more: PASH_CONNECT_TIMEOUT_MS counts
    echo hello >"$tmp/in"
    register 1 '{"local_addr":"127.0.0.1:9"}'
    bg S env PASH_CONNECT_TIMEOUT_MS=700 $P send k 0 1 "$tmp/in"
    until_true grep -q connecting "$tmp/S.err"
    # The sender logs that a registration has come, not that one has gone. So this one goes and comes until that is
    # logged.
    until [ -f "$tmp/S.rc" ] || [ "$(grep -c connecting "$tmp/S.err")" -gt 1 ]; do
        mv "$tmp/rdv/k/N_1" "$tmp/away"
        sleep 0.5
        mv "$tmp/away" "$tmp/rdv/k/N_1"
        sleep 0.5
    done
    ended S
    between 'how often it began to connect' 2 99 "$(grep -c connecting "$tmp/S.err")"
    between 'tenths of a second, where PASH_PEER_TIMEOUT_MS says 200' 7 150 "$(tenths "$tmp/S.err")"
}
connect_leftover_replaced() { # a leftover is replaced when the peer comes at last, and the two meet
    echo hello >"$tmp/in"
    register 1 '{"local_addr":"127.0.0.1:9"}'
    bg S env PASH_CONNECT_TIMEOUT_MS=10000 $P send k 0 1 "$tmp/in"
    until_true grep -q connecting "$tmp/S.err"
    bg R $P recv k 1 0 "$tmp/got"
    both 'exit statuses' '0 0'
    is 'the data' hello "$(cat "$tmp/got")"
    left_nothing 'afterwards'
}

# ---- strangers ----

connect_strangers() { # 80 strangers hold connections to the receiver, and the peer gets through
    need 'strangers' python3 || return
    echo hello >"$tmp/in"
    bg R env PASH_PUBLIC_ADDR=127.0.0.1:44000 PASH_PEER_TIMEOUT_MS=60000 $P recv k 1 0 "$tmp/got"
    until_true test -f "$tmp/rdv/k/N_1"
    bg strangers python3 -B .test/strangers.py "$(port_of 1)" 40 40 0
    until_true grep -q held "$tmp/strangers.out"
    bg S $P send k 0 1 "$tmp/in"
    both 'exit statuses' '0 0'
    is 'the data' hello "$(cat "$tmp/got")"
}
connect_crowd() { # 40 strangers come between a peer's hello and its proof, and it gets through
    need 'a crowd' python3 || return
    bg R env PASH_PEER_TIMEOUT_MS=60000 $P recv k 1 0 "$tmp/got"
    until_true test -f "$tmp/rdv/k/N_1"
    bg S python3 -B .test/peer.py "$tmp/rdv" k 0 1 send-crowded
    both 'exit statuses' '0 0'
    is 'the answer' 2304 "$(cat "$tmp/S.out")"
}
connect_mirrors() { # 40 strangers say hello as the peer would, then 40 more come between its hello and its proof
    need 'mirrors' python3 || return
    bg R env PASH_PEER_TIMEOUT_MS=60000 $P recv k 1 0 "$tmp/got"
    until_true test -f "$tmp/rdv/k/N_1"
    bg strangers python3 -B .test/strangers.py "$(port_of 1)" 0 0 40
    until_true grep -q held "$tmp/strangers.out"
    bg S python3 -B .test/peer.py "$tmp/rdv" k 0 1 send-crowded
    both 'exit statuses' '0 0'
    is 'the answer' 2304 "$(cat "$tmp/S.out")"
}
connect_greedy() { # a peer that proves 45 connections, chooses none and registers ever new addresses: exit 1 in the end
    need 'a greedy peer' python3 || return
    bg R env PASH_CONNECT_TIMEOUT_MS=2000 PASH_PEER_TIMEOUT_MS=60000 $P recv k 1 0 "$tmp/got"
    until_true test -f "$tmp/rdv/k/N_1"
    bg greedy python3 -B .test/greedy.py "$tmp/rdv" k "$(port_of 1)"
    ended greedy
    is 'it took all it could' 0 "$status"
    ended R
    is 'exit status' 1 "$status"
    has 'told' "$tmp/R.err" \
        '^pashlib: recv k: no connection to node 0 (external 127.0.0.2:[0-9]*, local 127.0.0.1:[0-9]*) from '
}

# ---- the handshake ----

connect_wrong_key() { # two with different keys, who meet by mistake, do not accept each other
    echo hello >"$tmp/in"
    bg S env PASH_CONNECT_TIMEOUT_MS=1500 $P send k1 0 1 "$tmp/in"
    bg R env PASH_CONNECT_TIMEOUT_MS=1500 $P recv k2 1 0 "$tmp/got"
    until_true test -f "$tmp/rdv/k1/N_0" -a -f "$tmp/rdv/k2/N_1"
    cp "$tmp/rdv/k1/N_0" "$tmp/rdv/k2/N_0"
    cp "$tmp/rdv/k2/N_1" "$tmp/rdv/k1/N_1"
    both 'exit statuses' '1 1'
    has 'told' "$tmp/S.err" 'without handshake: it does not know the key'
    absent 'nothing is written' "$tmp/got"
}
connect_both_send() { # two senders under one key: both fail, and say why
    echo hello >"$tmp/in"
    bg S "$P" send k 0 1 "$tmp/in"
    bg R $P send k 1 0 "$tmp/in"
    both 'exit statuses' '1 1'
    has 'told' "$tmp/S.err" '^pashlib: send k: both ends send$'
    has 'told at the other end' "$tmp/R.err" '^pashlib: send k: both ends send$'
}
connect_both_receive() { # two receivers under one key: both fail, and say why
    bg S $P recv k 0 1 "$tmp/x"
    bg R $P recv k 1 0 "$tmp/y"
    both 'exit statuses' '1 1'
    has 'told' "$tmp/R.err" '^pashlib: recv k: both ends receive$'
    left_nothing 'afterwards'
}
connect_bad_hello() { # a peer that breaks the handshake in one of five ways, and what is said of it
    need 'a peer with a bad handshake' python3 || return
    echo hello >"$tmp/in"
    modes='badmagic badrole badzero badnode badproof'
    for mode in $modes; do
        fake "peer.$mode" $mode 1 0 $mode
        bg "S.$mode" env PASH_CONNECT_TIMEOUT_MS=2000 PASH_PEER_TIMEOUT_MS=2000 $P send $mode 0 1 "$tmp/in"
    done
    for mode in $modes; do
        case $mode in
        badmagic) want='it does not speak this protocol' ;;
        badnode) want='it is node 8 and wants node 0' ;;
        badproof) want='it does not know the key' ;;
        *) want='its HELLO is malformed' ;;
        esac
        ended "S.$mode"
        is "$mode: exit status" 1 "$status"
        has "$mode: told" "$tmp/S.$mode.err" "without handshake: $want"
    done
}
connect_silent_peer() { # a peer that takes the connection and is silent
    need 'a silent peer' python3 || return
    echo hello >"$tmp/in"
    fake peer k 1 0 register
    run env PASH_CONNECT_TIMEOUT_MS=600 PASH_PEER_TIMEOUT_MS=600 $P send k 0 1 "$tmp/in"
    is 'exit status' 1 "$status"
    has 'told' "$tmp/err" ' within [0-9.]* s: 1 without handshake: it was silent$'
}

# ---- peers written from README ----

connect_readme_receiver() { # a receiver written from README gets the data
    need 'a receiver written from README' python3 || return
    echo hello >"$tmp/in"
    fake R k 1 0 recv
    bg S "$P" send k 0 1 "$tmp/in"
    both 'exit statuses' '0 0'
    is 'the data' "$(sha256sum <"$tmp/in" | cut -d' ' -f1) 6" "$(cat "$tmp/R.out")"
}
connect_readme_sender() { # a sender written from README, as the lower node and as the higher, with several frames
    need 'a sender written from README' python3 || return
    head -c 1048576 /dev/zero | tr '\0' z >"$tmp/largest"
    while read -r me peer mode; do
        fake S "$mode$me" "$me" "$peer" "$mode"
        bg R $P recv "$mode$me" "$peer" "$me" "$tmp/got"
        both "$mode from node $me" '0 0'
        is "$mode from node $me: answered" "$(wc -c <"$tmp/got")" "$(cat "$tmp/S.out")"
        [ "$mode" != send-max ] ||
            is "a frame of 1 MiB from node $me" "$(sha256sum <"$tmp/largest")" "$(sha256sum <"$tmp/got")"
    done <<'TABLE'
0 1 send
0 1 send-trickle
0 1 send-max
1 0 send
1 0 send-trickle
1 0 send-max
TABLE
}
connect_bad_sender() { # a sender that ends too early or sends what is none: exit 1, and told
    need 'a bad sender' python3 || return
    while read -r mode want; do
        fake S $mode 0 1 $mode
        bg R $P recv $mode 1 0 "$tmp/got"
        ended R
        is "$mode: exit status" 1 "$status"
        has "$mode: told" "$tmp/R.err" "^pashlib: recv $mode: $want\$"
        ended S
    done <<'TABLE'
send-big a frame of 1048577 bytes is none
send-total received 2304 bytes of 2305: output is incomplete
send-cutframe connection lost after 2299 bytes: output is incomplete
send-noend connection lost after 2304 bytes: output is incomplete
send-cutend connection lost after 2304 bytes: output is incomplete
TABLE
}
connect_bad_receiver() { # a receiver that answers wrongly, too early or not at all: the exit status, and told
    need 'a bad receiver' python3 || return
    head -c 3000000 /dev/urandom >"$tmp/in"
    while read -r mode want_status want; do
        fake R $mode 0 1 $mode
        bg S env PASH_CONNECT_TIMEOUT_MS=2000 PASH_PEER_TIMEOUT_MS=2000 $P send $mode 1 0 "$tmp/in"
        ended S
        is "$mode: exit status" "$want_status" "$status"
        has "$mode: told" "$tmp/S.err" "^pashlib: send $mode: $want"
        stop R
    done <<'TABLE'
recv-wrong 1 node 0 has 3000001 bytes of 3000000: output is incomplete
recv-cut 1 connection lost after [0-9]* bytes: output is incomplete
recv-gone 0 node 0 needs no more: its reader went away
recv-early 1 node 0 has [0-9]* bytes of [0-9]*: output is incomplete
recv-nogo 1 no connection .* without handshake: it sent no GO
TABLE
}
