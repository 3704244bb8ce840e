# nat_long: peers that start later, and connections that are idle or cut, for a minute or more
# cases: at once

. .test/lab/lab.sh

nat_long_setup() {
    lab drop1 drop2 quiet1:drop quiet2:drop strict1:drop strict2:drop down1:drop down2:drop gone1:drop gone2:drop
}
forgets() {                                         # SECONDS NODE...: their boxes forget idle connections after so long
    seconds=$1
    shift
    for node in "$@"; do
        on "n$node" sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_established="$seconds" \
            net.netfilter.nf_conntrack_tcp_loose=0
    done
}
ended_late() {                                      # NAME: ended, for what takes three minutes or less
    until_true test -f "$tmp/$1.rc" || until_true test -f "$tmp/$1.rc" || until_true test -f "$tmp/$1.rc" ||
        until_true test -f "$tmp/$1.rc"
    ended "$1"
}
both_late() {                                       # NAME WANT: both, likewise
    ended_late S
    ended_late R
    both "$1" "$2"
}

under_way() {                                       # A B: "a" has gone from S at A to R at B; more can be written to 3
    mkfifo "$tmp/in"
    bg S $at "$1" $P send k 1 2 "$tmp/in"
    bg R $at "$2" $P recv k 2 1
    exec 3<>"$tmp/in"
    echo a >&3
    until_true grep -q a "$tmp/R.out"
}

nat_long_idle() { # a stream is idle for 60 s, through boxes that forget after 45 s
    forgets 45 quiet1 quiet2
    under_way quiet1 quiet2
    sleep 60
    echo b >&3
    exec 3>&-
    both 'exit statuses' '0 0'
    is 'the data' 'a b' "$(paste -s -d ' ' "$tmp/R.out")"
}
nat_long_forgotten() { # a stream is idle for 10 s, through boxes that forget after 5 s: both ends say that it is lost
    forgets 5 strict1 strict2
    under_way strict1 strict2
    sleep 10
    echo b >&3
    since=$(date +%s)
    both_late 'both fail' '1 1'
    at_most 'within about 120 s: seconds' 150 $(($(date +%s) - since))
    exec 3>&-
    has 'the sender says so' "$tmp/S.err" 'connection lost after 4 bytes: output is incomplete$'
    has 'the receiver says so' "$tmp/R.err" 'connection lost after 2 bytes: output is incomplete$'
}
nat_long_down() { # a link that is down for 5 s, and comes back
    mkfifo "$tmp/in"
    bg input sh -c 'for i in $(seq 200); do seq 2000; sleep 0.05; done >"$0"' "$tmp/in"
    bg S $at down1 $P send k 1 2 "$tmp/in"
    bg R $at down2 $P recv k 2 1
    until_true test -s "$tmp/R.out"
    sever down1
    sleep 5
    mend down1
    both_late 'exit statuses' '0 0'
    is 'the data' "$(for i in $(seq 200); do seq 2000; done | cksum)" "$(cksum <"$tmp/R.out")"
}
nat_long_gone() { # a link that is gone for good: both ends notice it within 60 s or 75 s
    mkfifo "$tmp/in"
    bg input sh -c 'exec yes >"$0"' "$tmp/in"
    bg S $at gone1 $P send k 1 2 "$tmp/in"
    bg R $at gone2 $P recv k 2 1 "$tmp/got"
    until_true test -s "$tmp/got"
    sever gone2
    since=$(date +%s)
    both_late 'both fail' '1 1'
    has 'the sender says so' "$tmp/S.err" 'connection lost after [1-9][0-9]* bytes: output is incomplete$'
    has 'the receiver says so' "$tmp/R.err" \
        "connection lost after $(wc -c <"$tmp/got") bytes: output is incomplete\$"
    at_most 'the sender fails within 60 s of the last word' 65 $(($(stat -c %Y "$tmp/S.rc") - since))
    at_most 'the receiver fails within 15 s more' 80 $(($(stat -c %Y "$tmp/R.rc") - since))
}
nat_long_later() { # the second end starts 0, 1, 5 or 20 s after the first
    echo word >"$tmp/word"
    for later in 0 1 5 20; do
        bg S$later $at drop1 PASH_PEER_TIMEOUT_MS=60000 $P send later$later 1 2 "$tmp/word"
        bg R$later sh -c "sleep $later; exec $at drop2 $P recv later$later 2 1"
    done
    for later in 0 1 5 20; do
        ended S$later
        sent=$status
        ended R$later
        is "$later s later: exit statuses and the data" '0 0 word' "$sent $status $(cat "$tmp/R$later.out")"
    done
}
