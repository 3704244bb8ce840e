# valgrind: memory and descriptors under valgrind

# under_valgrind WORD... is the program under valgrind, with a log for each of its processes.
valgrind_setup() {
    need 'under valgrind' valgrind || return
    cat >"$shared/under_valgrind" <<END
#!/bin/sh
exec valgrind -q --track-fds=yes --error-exitcode=9 --trace-children=yes --log-file="\$TMPDIR/log.%p" $P "\$@"
END
    chmod +x "$shared/under_valgrind"
}
clean() {                                           # what the logs say
    is 'there are logs' 1 $(($(find "$tmp" -name 'log.[0-9]*' | wc -l) > 0))
    is 'no error' '' \
        "$(grep -hE 'Invalid|uninitialised|definitely|Syscall param|overlap' "$tmp"/log.[0-9]* | head -n 5)"
    at_most 'no process ends with more sockets than the listener and the connection of its stream' 2 \
        "$(for log in "$tmp"/log.[0-9]*; do grep -c 'Open AF_INET' "$log"; done | sort -n | tail -n 1)"
}

valgrind_addr() { # pashlib addr, which asks STUN servers that are not there
    run env -u PASH_NO_HOLEPUNCH PASH_STUN_SERVER=localhost:9,tcp:127.0.0.1:9 "$shared/under_valgrind" addr
    is 'exit status' 0 $status
    clean
}
valgrind_streams() { # three streams at once, between FIFOs, between files, and one without input
    seq 100000 >"$tmp/in"
    mkfifo "$tmp/fifo-in" "$tmp/fifo-out"
    bg S "$shared/under_valgrind" "send*a*1*2*$tmp/fifo-in" "recv*b*1*2*$tmp/got-b" "send*c*1*2*$tmp/none"
    bg R "$shared/under_valgrind" "recv*a*2*1*$tmp/fifo-out" "send*b*2*1*$tmp/in" "recv*c*2*1*$tmp/got-c"
    bg reader cat "$tmp/fifo-out"
    bg writer cp "$tmp/in" "$tmp/fifo-in"
    both 'exit statuses' '1 1'
    ended reader
    is 'the data between FIFOs' '' "$(cmp "$tmp/in" "$tmp/reader.out" 2>&1)"
    is 'the data between files' '' "$(cmp "$tmp/in" "$tmp/got-b" 2>&1)"
    clean
}
