# nat: which hosts it joins, behind which boxes, in the NAT laboratory; each pair meets 20 times

. .test/lab/lab.sh

nat_setup() {
    lab open1 open2 sg1 sg2 drop1 drop2 sym1 sym2 rst1:rst:20 rst2:rst:20 rst3 fixed:sg vpc1:open vpc2:open
}

# ---- pairs of boxes ----

nat_open() { # an open host is joined with any other: another open one, behind sg, drop, sym
    joins 20 open1 open2
    joins 20 open1 sg1
    joins 20 open1 drop1
    joins 20 sym1 open1
}
nat_sg_drop() { # two hosts are joined whose boxes drop what they do not know: sg and drop
    joins 20 sg1 sg2
    joins 20 sg1 drop1
    joins 20 drop1 drop2
}
nat_rst() { # a host is joined whose box, 20 ms away, answers with a reset what it does not know
    joins 20 rst1 rst2
    joins 20 rst1 rst3
    joins 20 rst1 drop1
    joins 20 rst1 sg1
    joins 20 rst1 open1
}

# ---- other ways to the peer ----

nat_open_range() { # what README advises: with a range of ports open at one end, a host behind sym is joined
    on nfixed nft insert rule ip lab inward tcp dport 5000-5007 accept
    joins 20 fixed sym2 "PASH_PUBLIC_ADDR=$(outside fixed):5000"
}
nat_two_ways() { # where the peer can be reached by its private and its public address, one connection is chosen, once
    ip -n core route add "$(inside vpc1).0/24" dev pvpc1
    ip -n core route add "$(inside vpc2).0/24" dev pvpc2
    joins 100 vpc1 vpc2
    is 'each end has chosen one, each time' 200 \
        "$(cat "$tmp"/vpc1.vpc2.*.early "$tmp"/vpc1.vpc2.*.late | grep -c ': connected to node ')"
}
leftover() {                                        # ADDRESS: a registration of node 2 that is left over names it
    mkdir -p "$tmp/rdv/stale"
    chmod 700 "$tmp/rdv" "$tmp/rdv/stale"
    echo "{\"local_addr\":\"203.0.113.2:3478\",\"external_addr\":\"$1\"}" >"$tmp/rdv/stale/N_2"
    echo word >"$tmp/word"
    bg S $at drop1 $P send stale 1 2 "$tmp/word"
    until_true grep -q "connecting from .* to $1" "$tmp/S.err"
    sleep 0.5                                       # The other server has time to answer.
    bg R $at sg1 $P recv stale 2 1
    both 'exit statuses' '0 0'
    is 'the data' word "$(cat "$tmp/R.out")"
}
nat_leftover_server() { # a registration is left over, and its address is now a STUN server's: they meet all the same
    leftover 203.0.113.1:3478
}
nat_leftover_stranger() { # a registration is left over, and its address is now another stream's: they meet all the same
    bg other $at open2 "PASH_PUBLIC_ADDR=$(outside open2):6000" $P recv other 2 1
    until_true test -f "$tmp/rdv/other/N_2"
    leftover "$(outside open2):6000"
    stop other
}

# ---- several streams and processes ----

nat_32_streams() { # 32 streams at once, one process an end, between drop and sg
    sends=''
    receives=''
    for i in $(seq 32); do
        seq $((i * 999)) >"$tmp/$i.in"
        sends="$sends send*many$i*1*2*$tmp/$i.in"
        receives="$receives recv*many$i*2*1*$tmp/$i.out"
    done
    bg S $at drop1 $P $sends
    bg R $at sg1 $P $receives
    both 'exit statuses' '0 0'
    for i in $(seq 32); do
        cmp "$tmp/$i.in" "$tmp/$i.out"
    done >"$tmp/differ" 2>&1
    is 'the data' '' "$(cat "$tmp/differ")"
}
two_processes() {                                   # [SETTING]: of the two senders
    echo word >"$tmp/word"
    for i in 1 2; do
        bg S$i $at sg1 $1 $P send two$i 1 2 "$tmp/word"
    done
    for i in 1 2; do
        bg R$i $at sg2 $P recv two$i 2 1
    done
    for i in 1 2; do
        ended S$i
        sent=$status
        ended R$i
        is "stream $i: exit statuses and the data" '0 0 word' "$sent $status $(cat "$tmp/R$i.out")"
    done
}
nat_two_processes() { # two processes at once on each of two hosts
    two_processes
}
nat_two_processes_public_addr() { # two processes at once, with the same PASH_PUBLIC_ADDR: they share its range of ports
    two_processes "PASH_PUBLIC_ADDR=$(outside sg1):5000"
    is 'the ports' '5000 5001 ' "$(cat "$tmp/S1.err" "$tmp/S2.err" |
        sed -n 's/.*succeeded - .*external_addr: .*:\(.*\)/\1/p' | sort | tr '\n' ' ')"
}
