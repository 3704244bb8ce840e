# nat_addr: which address is found behind the kinds of boxes, and where STUN is blocked
# cases: at once

. .test/lab/lab.sh

# The name of the public server that is asked by default leads to the laboratory. Two of the boxes whose STUN requests
# are blocked have an instance metadata service; at the other two nothing answers.
nat_addr_setup() {
    lab open1 sym1 drop1 tcp1 imds1:sg imds2:sg none1:drop none2:drop || return 1
    echo 127.0.0.1 localhost >"$tmp/hosts"
    echo 203.0.113.1 stun.l.google.com >>"$tmp/hosts"
    mount --bind "$tmp/hosts" /etc/hosts
    at_end 'umount /etc/hosts'
    for node in imds1 none1; do
        on n$node nft add rule ip lab outward udp dport '{ 3478, 19302 }' drop
    done
    for node in imds2 none2; do
        on n$node nft add rule ip lab outward udp dport '{ 3478, 19302 }' reject
    done
    on nnone1 nft add rule ip lab outward ip daddr 169.254.169.254 drop
    on nnone2 nft add rule ip lab outward ip daddr 169.254.169.254 reject
    for node in imds1 imds2; do
        ip -n n$node addr add 169.254.169.254/32 dev in
        bg $node ip netns exec n$node python3 .test/imds.py "$tmp/$node" "$(outside $node)"
    done
    for node in imds1 imds2; do
        if ! until_true test -f "$tmp/$node"; then
            fail "$node: the metadata service is there" "$(cat "$tmp/$node.err")"
            return 1
        fi
    done
}
addr() {                                            # NODE [SETTING...]: pashlib addr there, all else as it comes
    node=$1
    shift
    run ip netns exec "h$node" env -i "PATH=$PATH" "$@" $P addr
    is "$node, $*: exit 0" 0 "$status"
}
found() {                                           # the address without its port, and where it is from
    sed -n 's/external_addr=\(.*\):.*/\1/p; s/source=//p' "$tmp/out" | paste -s -d ' ' -
}

# ---- the kind of box ----

nat_addr_mapping() { # addr tells the kinds apart: sym is endpoint-dependent; drop and tcp are not
    run $at sym1 $P addr
    has 'sym' "$tmp/out" '^mapping=endpoint-dependent$'
    run $at drop1 $P addr
    has 'drop' "$tmp/out" '^mapping=endpoint-independent$'
    run $at tcp1 PASH_STUN_SERVER=tcp:203.0.113.1,tcp:203.0.113.2 $P addr
    has 'tcp: the port that TCP gets' "$tmp/out" "^external_addr=$(outside tcp1):4[0-9]*\$"
    has 'tcp' "$tmp/out" '^mapping=endpoint-independent$'
}
nat_addr_default_server() { # without any setting, stun.l.google.com is asked, at port 19302
    addr open1
    is 'the address' "$(outside open1) stun" "$(found)"
}

# ---- STUN is blocked ----

imds() {                                            # NODE: the instance metadata service tells the address
    addr "$1"
    is 'the address of IMDS' "$(outside "$1") imds" "$(found)"
    has 'why not STUN' "$tmp/err" 'STUN discovery failed: stun.l.google.com:19302: '
    has 'it says so' "$tmp/err" "AWS metadata service returned public IP: $(outside "$1")\$"
}
nat_addr_imds_drop() { # STUN requests are dropped: IMDS tells the address
    imds imds1
}
nat_addr_imds_reject() { # STUN requests are rejected: IMDS tells the address
    imds imds2
}
nat_addr_imds_meet() { # two hosts that know their addresses from IMDS meet
    meet 5 imds1 imds2 PASH_STUN_SERVER= AWS_EC2_METADATA_DISABLED=
    is '5 runs of 5' 5 "$(have_met imds1 imds2)"
}
nat_addr_none_public_ip() { # neither STUN nor IMDS can be reached: PASH_PUBLIC_IP is taken
    for node in none1 none2; do
        addr $node "PASH_PUBLIC_IP=$(outside $node)"
        has "$node: the source" "$tmp/out" '^source=PASH_PUBLIC_IP$'
    done
}
nat_addr_none_drop() { # requests to STUN and IMDS are dropped: the local address is taken
    addr none1
    has 'the local address' "$tmp/out" '^source=local$'
    has 'why not STUN' "$tmp/err" 'STUN discovery failed: stun.l.google.com:19302: no answer within 8000 ms'
    has 'why not IMDS' "$tmp/err" \
        'AWS metadata query failed: 169.254.169.254\(:80: Connection timed out\|: no answer within 2 s\)'
}
nat_addr_none_reject() { # requests to STUN and IMDS are rejected: the local address is taken
    addr none2
    has 'the local address' "$tmp/out" '^source=local$'
    has 'why not IMDS' "$tmp/err" 'AWS metadata query failed: 169.254.169.254:80: Connection refused'
}
