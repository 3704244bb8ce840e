# readers: readers that leave, stall or come late, and writers that do; outputs of unusual kinds

# ---- a reader that goes away ----

readers_go_away() { # head takes one line of an endless stream: success at both ends, SIGPIPE for the writer, and told
    need 'a reader that goes away' bash || return
    bg S bash -c "yes | $P send k 0 1; echo \${PIPESTATUS[@]}"
    bg R bash -c "$P recv k 1 0 | head -n 1; echo \${PIPESTATUS[@]}"
    both 'the pipelines end' '0 0'
    is 'the writer, the sender' '141 0' "$(cat "$tmp/S.out")"
    is 'the data, the receiver, the reader' 'y|0 0|' "$(tr '\n' '|' <"$tmp/R.out")"
    has 'the receiver says so' "$tmp/R.err" '^pashlib: recv k: the reader of - went away$'
    has 'the sender says so' "$tmp/S.err" '^pashlib: send k: node 1 needs no more: its reader went away$'
}
readers_reset() { # a socket as output whose reader resets it counts as one that went away
    need 'a reader that resets' python3 || return
    # Whether poll() or send() tells first is a matter of luck, so it is tried eight times.
    for try in 1 2 3 4 5 6 7 8; do
        bg S $P send reset$try 0 1 /dev/zero
        bg R python3 -B .test/reset.py $P recv reset$try 1 0
        both "try $try: exit statuses" '0 0'
        has "try $try: the receiver says so" "$tmp/R.err" ': the reader of - went away$'
    done
}
readers_go_away_while_idle() { # the reader goes away while nothing is sent: this is noticed, and is a success
    mkfifo "$tmp/i" "$tmp/o"
    bg S $P send k 0 1 "$tmp/i"
    bg R $P recv k 1 0 "$tmp/o"
    bg writer sh -c "exec 3>$tmp/i; echo one >&3; exec sleep 100"
    bg reader sh -c "read -r line <$tmp/o; echo \$line"
    both 'exit statuses' '0 0'
    ended reader
    is 'it has what it wanted' one "$(cat "$tmp/reader.out")"
}
readers_gone_before_the_writer_came() { # the reader goes before the writer of the input has come: it is waited for
    mkfifo "$tmp/i"
    bg S $P send k 0 1 "$tmp/i"
    bg R sh -c "$P recv k 1 0 | true"
    until_true grep -q 'send k: node 1 needs no more' "$tmp/S.err"
    ended R
    has 'told' "$tmp/S.err" "^pashlib: send k: waiting for the other end of $tmp/i\$"
    run sh -c "seq 1000000 2>/dev/null >$tmp/i; [ \$? != 0 ]"
    is 'the writer comes, and gets SIGPIPE' 0 "$status"
    ended S
    is 'exit status' 0 "$status"
}

# ---- readers and writers that are slow or late ----

readers_stall() { # a reader that takes nothing for two seconds, while more is sent than there is room for on the way
    bg S sh -c "seq 3000000 | $P send k 0 1"
    bg R sh -c "$P recv k 1 0 | { sleep 2; tail -n 1; }"
    both 'exit statuses' '0 0'
    is 'the data' 3000000 "$(cat "$tmp/R.out")"
}
readers_slow() { # a writer and a reader that both pause between lines
    bg S sh -c "{ echo 1; sleep 1; echo 2; sleep 1; echo 3; } | $P send k 0 1"
    bg R sh -c "$P recv k 1 0 | while read -r l; do echo \$l; sleep 0.3; done"
    both 'exit statuses' '0 0'
    is 'the data' '1 2 3 ' "$(tr '\n' ' ' <"$tmp/R.out")"
}
readers_late() { # the reader of a FIFO comes only after the connection stands
    mkfifo "$tmp/o"
    seq 10 >"$tmp/in"
    bg S "$P" send k 0 1 "$tmp/in"
    bg R $P recv k 1 0 "$tmp/o"
    until_true grep -q "^pashlib: recv k: waiting for the other end of $tmp/o\$" "$tmp/R.err"
    cat "$tmp/o" >"$tmp/got"
    both 'exit statuses' '0 0'
    is 'the data' "$(cat "$tmp/in")" "$(cat "$tmp/got")"
    left_nothing 'afterwards'
}

# ---- a FIFO whose other end does not come ----

readers_absent() { # a FIFO without a reader holds up its own stream alone; the wait for it ends with the connection
    mkfifo "$tmp/i" "$tmp/o"
    seq 10 >"$tmp/in"
    bg S $P "send*held*0*1*$tmp/i" "send*free*0*1*$tmp/in"
    bg R $P "recv*held*1*0*$tmp/o" "recv*free*1*0*$tmp/got"
    until_true grep -q 'recv free: received 21 bytes' "$tmp/R.err"
    is 'the other stream goes on' "$(cat "$tmp/in")" "$(cat "$tmp/got")"
    # Both ends of the held stream are connected before it is cut, or there would be no connection to lose.
    until_true grep -q 'recv held: connected' "$tmp/R.err"
    kill "$(pid S)"
    ended S
    began=$(date +%s)
    ended R
    is 'a lost connection ends the wait: exit status' 1 "$status"
    at_most '... at once, and not when the next sign of life is due: seconds' 9 $(($(date +%s) - began))
    has 'a lost connection ends the wait: told' "$tmp/R.err" \
        '^pashlib: recv held: connection lost after 0 bytes: output is incomplete$'
    left_nothing 'afterwards'
}
readers_absent_writer() { # a FIFO without a writer: the wait for it ends with the connection
    mkfifo "$tmp/i" "$tmp/o"
    bg S $P send held 0 1 "$tmp/i"
    bg R $P recv held 1 0 "$tmp/o"
    until_true grep -q connected "$tmp/S.err"
    until_true rmdir "$tmp/rdv"                     # nothing else stands in it
    kill -9 "$(pid R)"
    ended S
    is 'exit status' 1 "$status"
    left_nothing 'afterwards'
}

# ---- outputs of unusual kinds ----

readers_output_for_both() { # standard output is a FIFO that is open for reading, too, and has no other reader yet
    need 'a look at what a FIFO holds' python3 || return
    mkfifo "$tmp/o"
    bg R sh -c "exec $P recv k 1 0 1<>$tmp/o"
    bg S sh -c "{ seq 5; sleep 1; seq 6 9; until [ -f $tmp/read ]; do sleep 0.1; done; } | $P send k 0 1"
    until_true grep -q connected "$tmp/R.err"
    run python3 -B .test/fifo.py "$tmp/o" 10
    is 'what is written waits in the FIFO' 0 "$status"
    timeout 20 head -n 9 "$tmp/o" >"$tmp/got"
    echo >"$tmp/read"
    both 'exit statuses' '0 0'
    is 'the data' "$(seq 9)" "$(cat "$tmp/got")"
}
between_others() { # NAME OUTPUT: standard output is OUTPUT, which the shell writes before and after
    bg S $P send k 0 1 "$tmp/in"
    bg R sh -c "{ printf HEADER; $P recv k 1 0; rc=\$?; printf TRAILER; exit \$rc; } >$2"
    both "$1: exit statuses" '0 0'
    is "$1: the data" "HEADER$(cat "$tmp/in")
TRAILER" "$(head -c $((13 + $(wc -c <"$tmp/in"))) "$2")"
}
readers_output_with_a_header() { # standard output is a file, and a block device: what is written before and after stays
    seq 10 >"$tmp/in"
    between_others 'a file' "$tmp/got"
    head -c 65536 /dev/zero >"$tmp/disk"
    if loop=$(losetup -f --show "$tmp/disk" 2>/dev/null); then
        at_end "losetup -d $loop"
        between_others 'a block device' "$loop"
    else
        echo '    (no loop device can be had here: a block device is not tried)'
    fi
}
