# ports: which local ports the streams take

addr_from() {                                       # PORT: pashlib addr, PORT being the first to try
    run env PASH_PUBLIC_ADDR=127.0.0.1:"$1" $P addr
}
hold() {                                            # NAME PROTOCOL IP PORT: take that port, as bg NAME
    bg "$1" python3 .test/holdport.py "$2" "$3" "$4"
    until_true grep -q up "$tmp/$1.out"
}

ports_next() { # each stream takes the next port that is free, in this process and past another one's
    bg R env PASH_PUBLIC_ADDR=127.0.0.1:23000 $P "recv*a*1*0*$tmp/x" "recv*b*1*0*$tmp/y"
    until_true test -f "$tmp/rdv/a/N_1" -a -f "$tmp/rdv/b/N_1"
    for key in a b; do
        sed 's/.*external_addr":"\([^"]*\)".*/\1/' "$tmp/rdv/$key/N_1"
        echo
    done | sort | grep . >"$tmp/taken"
    is 'each stream takes the next port' '127.0.0.1:23000 127.0.0.1:23001' "$(paste -s -d ' ' "$tmp/taken")"
    addr_from 23000
    has 'a second process does not get them' "$tmp/out" '^local_addr=127.0.0.1:23002$'
    kill "$(pid R)"
    ended R
    addr_from 23000
    has 'they are free again once the first has ended' "$tmp/out" '^local_addr=127.0.0.1:23000$'
}
ports_udp() { # a port that is taken for UDP is passed over
    need 'a port taken for UDP' python3 || return
    hold udp udp 0.0.0.0 23000
    addr_from 23000
    has 'the next port is taken' "$tmp/out" '^local_addr=127.0.0.1:23001$'
}
ports_none() { # where the last port is taken, too, it says so and fails
    need 'no port is free' python3 || return
    hold tcp tcp 127.0.0.1 65535
    addr_from 65535
    is 'exit 1' 1 "$status"
    has 'it says why' "$tmp/err" '^pashlib: no port is free from 65535 (PASH_PUBLIC_ADDR) on$'
}
