# long: streams that stand still for more than a minute
# cases: at once
# Each case starts its stream, lets it stand still for 70 s or so, and looks what has become of it.

# NAME: wait for it as ended() does, but for up to four minutes, since it stands still for one.
ended_late() {
    deadline=$(($(date +%s) + 240))
    until [ -f "$tmp/$1.rc" ] || [ "$(date +%s)" -gt $deadline ]; do sleep 0.2; done
    ended "$1"
}
# NAME WANT: wait for S and R as both() does, but for longer; exit statuses "S R".
both_late() {
    ended_late S
    sent=$status
    ended_late R
    is "$1" "$2" "$sent $status"
}

long_reader_stalls() { # a reader that stalls for 70 s loses nothing
    bg S sh -c "seq 3000000 | $P send k 0 1"
    bg R sh -c "$P recv k 1 0 | { sleep 70; tail -n 1; }"
    both_late 'exit statuses' '0 0'
    is 'the last line' 3000000 "$(cat "$tmp/R.out")"
}
long_idle() { # a stream whose input is silent for 70 s lives, and sleeps meanwhile
    bg S sh -c "{ echo a; sleep 70; echo b; } | $P send k 0 1"
    bg R "$P" recv k 1 0
    until_true test -s "$tmp/R.out"
    sleep 20
    before=$(switches S R)
    sleep 20
    woke=$(($(switches S R) - before))
    at_most 'how often its processes wake in 20 s' 8 $woke
    both_late 'exit statuses' '0 0'
    is 'the data' 'a b' "$(tr '\n' ' ' <"$tmp/R.out" | sed 's/ $//')"
}
long_receiver_stopped() { # a receiver that says nothing for 60 s, as if its machine had vanished, is given up
    mkfifo "$tmp/fifo"
    bg S "$P" send k 0 1 "$tmp/fifo"
    # The kernel wakes what is stopped when the shell that started the tests goes away, unless its session is another.
    alone=$(command -v setsid)
    bg R $alone "$P" recv k 1 0 "$tmp/got"
    until_true grep -q connected "$tmp/R.err"
    stopped=$(below "$(pid R)")
    at_end "kill -CONT $stopped 2>/dev/null"
    kill -STOP $stopped
    ended_late S
    is 'the exit status of the sender' 1 "$status"
    has 'the sender says why' "$tmp/S.err" \
        '^pashlib: send k: connection lost after 0 bytes: output is incomplete$'
    kill -CONT $stopped
    ended_late R
    is 'the exit status of the receiver when it comes back' 1 "$status"
}
long_reader_comes_late() { # a FIFO whose reader comes after 72 s gets everything
    mkfifo "$tmp/fifo"
    bg S sh -c "seq 10 | $P send k 0 1"
    bg R "$P" recv k 1 0 "$tmp/fifo"
    until_true grep -q connected "$tmp/R.err"
    sleep 72
    timeout 60 cat "$tmp/fifo" >"$tmp/got"
    both_late 'exit statuses' '0 0'
    is 'the last line' 10 "$(tail -n 1 "$tmp/got")"
}
long_terminal_stalls() { # a terminal that shows nothing for 65 s loses nothing
    need 'a terminal that stalls' python3 || return
    bg S sh -c "seq 100000 | $P send k 0 1"
    bg R python3 .test/terminal.py "$P" recv k 1 0
    both_late 'exit statuses' '0 0'
    is 'how many bytes it shows' 588895 "$(cat "$tmp/R.out")"
}
