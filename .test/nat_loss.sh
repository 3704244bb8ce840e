# nat_loss: STUN requests are lost on their way to the server

. .test/lab/lab.sh

nat_loss_setup() {
    lab drop1
}
lossy() {                                           # PERCENT MOST [SETTING]: of 128 streams at most MOST find no answer
    on ndrop1 nft flush chain ip lab outward
    on ndrop1 nft add rule ip lab outward udp dport 3478 numgen random mod 100 '<' "$1" counter drop
    streams=$(seq 128 | sed 's/.*/recv*&*1*2*x/')
    run $at drop1 PASH_STUN_SERVER=203.0.113.1 PASH_PEER_TIMEOUT_MS=1 $3 $P $streams
    ran='pashlib with 128 streams'
    answered=$(grep -c 'STUN discovery succeeded' "$tmp/err")
    fell_back=$(grep -c 'Fallback succeeded' "$tmp/err")
    is 'each of the 128 streams has an address' 128 $((answered + fell_back))
    at_most 'STUN fails as seldom as its schedule allows' "$2" $((128 - answered))
    is 'no address is wrong' '' "$(sed -n 's/.*STUN discovery succeeded - //p' "$tmp/err" |
        awk -v ip="$(outside drop1)" '{ split($2, l, ":"); split($4, e, ":") } e[1] != ip || e[2] != l[2]')"
    on ndrop1 nft list chain ip lab outward >"$tmp/outward"
    has 'packets were lost' "$tmp/outward" ' packets [1-9][0-9]* .* drop$'
    echo "    $1 of 100 packets are lost: STUN fails for $((128 - answered)) of 128 streams"
}

# Of five requests within 8 s one must get through. Where there is a fallback, it is one of two within 750 ms.

nat_loss_10() { # 10 of 100 requests are lost
    lossy 10 1                                      # 0.1^5 of 128 streams are to be expected: 0.001
}
nat_loss_30() { # 30 of 100 requests are lost
    lossy 30 5                                      # 0.3^5: 0.3
}
nat_loss_50() { # 50 of 100 requests are lost
    lossy 50 16                                     # 0.5^5: 4
}
nat_loss_50_fallback() { # 50 of 100 requests are lost, and there is a fallback
    lossy 50 60 "PASH_PUBLIC_IP=$(outside drop1)"   # 0.5^2: 32
}
