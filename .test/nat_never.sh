# nat_never: pairs of boxes that cannot be joined, and how they say so
# cases: at once

. .test/lab/lab.sh

nat_never_setup() {
    lab sym1 sym2 drop2 sg2 rst3 tcp1 tcp2 || return
    on core nft add table ip silent
    on core nft add chain ip silent input '{ type filter hook input priority 0; }'
    on core nft add rule ip silent input tcp dport 9 drop
}
never() {                                           # A B: no connection is made, and each end says what it tried
    echo word >"$tmp/word"
    bg end1 $at "$1" PASH_CONNECT_TIMEOUT_MS=2000 $P send k 1 2 "$tmp/word"
    bg end2 $at "$2" PASH_CONNECT_TIMEOUT_MS=2000 $P recv k 2 1
    ended end1
    first=$status
    ended end2
    is 'both fail' '1 1' "$first $status"
    says_why end1 2 "$1"
    says_why end2 1 "$2"
}
says_why() {                                        # END PEER NODE
    there='(external 203.0.113.[0-9]*:[0-9]*, local 10.0.[0-9]*.2:[0-9]*)'
    tried='[0-9]* \(attempts timed out\|refused\)'
    has "$1: both ends' addresses, and what was tried" "$tmp/$1.err" \
        "no connection to node $2 $there from 203.0.113.[0-9]*:[0-9]* within [27][.0-9]* s: $tried"
    # A stream does not wait for a second STUN answer: whether it knows how its NAT maps is a matter of luck.
    known='the NAT here gives a different port to every destination (mapping=endpoint-dependent)'
    unknown='see by pashlib addr, with two STUN servers, whether the NAT here gives a different port to every'
    case $3 in
    sym*) has "$1: why: its box is sym" "$tmp/$1.err" "; \($known\|$unknown destination\)\$" ;;
    *) hasnt "$1: its own box is not the reason" "$tmp/$1.err" 'mapping=endpoint-dependent' ;;
    esac
}

nat_never_sym_sym() { # sym with sym
    never sym1 sym2
}
# While the tcp: server is silent, STUN waits, and the other two answer.
nat_never_sym_known() { # sym with drop, where both STUN servers have answered in time: the message says what the NAT is
    echo word >"$tmp/word"
    bg end2 $at drop2 PASH_CONNECT_TIMEOUT_MS=2000 $P recv k 2 1
    run $at sym1 PASH_STUN_SERVER=203.0.113.1,203.0.113.2,tcp:203.0.113.1:9 PASH_CONNECT_TIMEOUT_MS=2000 \
        $P send k 1 2 "$tmp/word"
    is 'it fails' 1 "$status"
    has 'why' "$tmp/err" '; the NAT here gives a different port to every destination (mapping=endpoint-dependent)$'
    ended end2
    is 'the other end fails' 1 "$status"
}
nat_never_sym_drop() { # sym with drop
    never sym1 drop2
}
nat_never_sg_sym() { # sg with sym
    never sg2 sym2
}
nat_never_sym_rst() { # sym with rst
    never sym2 rst3
}
nat_never_tcp_sym() { # tcp with sym
    never tcp2 sym1
}
nat_never_tcp_drop() { # tcp with drop, where STUN is asked by UDP only
    never tcp1 drop2
}
