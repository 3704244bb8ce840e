# transfer: data of all sizes, from and to all kinds of paths, by all kinds of builds; what cannot be read or written

# A stream that fails at both ends, S with MESSAGE-OF-S and R with MESSAGE-OF-R, basic regular expressions.
fails() {                                           # INPUT OUTPUT MESSAGE-OF-S MESSAGE-OF-R
    bg S $P send k 0 1 "$1"
    bg R $P recv k 1 0 "$2"
    both 'exit statuses' '1 1'
    has 'told by the sender' "$tmp/S.err" "^pashlib: send k: $3\$"
    has 'told by the receiver' "$tmp/R.err" "^pashlib: recv k: $4\$"
    left_nothing 'afterwards'
}
lost='connection lost after [0-9]* bytes: output is incomplete'

# ---- sizes and builds ----

transfer_sizes() { # nothing, one byte, and sizes about those of buffers and frames
    for size in 0 1 262143 262144 262145 1048575 1048576 1048577; do
        head -c $size /dev/urandom >"$tmp/in"
        pair "$size bytes"
    done
}
transfer_large() { # 100 MB, how much it was is told at both ends, and standard output stays empty
    head -c 100000000 /dev/urandom >"$tmp/in"
    pair '100000000 bytes'
    has 'sent' "$tmp/S.err" '^pashlib: send k: sent 100000000 bytes$'
    has 'received' "$tmp/R.err" '^pashlib: recv k: received 100000000 bytes$'
    is 'nothing on standard output' 00 "$(wc -c <"$tmp/S.out")$(wc -c <"$tmp/R.out")"
}
# These are builds of their own, whichever -b names.
built_with() {                                      # COMPILER-AND-FLAGS: it compiles the program, and data goes through
    need "$1" "${1%% *}" || return
    compile $1 -o "$tmp/pl" pashlib.c
    is "compiles: $1" 0 "$status"
    P=$tmp/pl
    head -c 3001 /dev/urandom >"$tmp/in"
    pair "built with $1"
}
transfer_buffer_of_1() { # a buffer of one byte, under sanitizers
    built_with 'gcc -g -fsanitize=address,undefined -fno-sanitize-recover=all -DPASHLIB_BUFFER=1'
}
transfer_buffer_of_7() { # a buffer of seven bytes, under sanitizers
    built_with 'gcc -g -fsanitize=address,undefined -fno-sanitize-recover=all -DPASHLIB_BUFFER=7'
}
transfer_without_linux() { # the code for systems other than Linux
    built_with 'cc -O2 -U__linux__'
}
transfer_tcc() { # a small compiler
    built_with tcc
}
transfer_musl() { # a small libc, in a static binary
    built_with 'musl-gcc -O2 -static'
}

# ---- paths ----

transfer_pipeline() { # from standard input to standard output, in pipelines
    bg S sh -c "seq 100000 | $P send k 0 1"
    bg R sh -c "$P recv k 1 0 | tail -n 1"
    both 'exit statuses' '0 0'
    is 'the data' 100000 "$(cat "$tmp/R.out")"
}
transfer_into_a_file() { # standard output that is a file; the path is written as a hyphen
    bg S sh -c "seq 1000 | $P 'send*k*0*1*-'"
    bg R sh -c "$P 'recv*k*1*0*-' >$tmp/got"
    both 'exit statuses' '0 0'
    is 'the data' 1000 "$(tail -n 1 "$tmp/got")"
}
transfer_appended() { # standard output that is a file which is appended to: what stood there stays
    seq 100000 >"$tmp/in"
    seq 1000 >"$tmp/got"
    bg S "$P" send k 0 1 "$tmp/in"
    bg R sh -c "$P recv k 1 0 >>$tmp/got"
    both 'exit statuses' '0 0'
    is 'the data' 101000 "$(wc -l <"$tmp/got")"
}
transfer_path_with_star() { # a path with a star and blanks
    seq 100000 >"$tmp/in"
    bg S $P "send*k*0*1*$tmp/in"
    bg R $P "recv*k*1*0*$tmp/a * # b"
    both 'exit statuses' '0 0'
    is 'the data' 100000 "$(wc -l <"$tmp/a * # b")"
}
transfer_dev_stdin() { # /dev/stdin and /dev/stdout are standard input and output
    bg S sh -c "seq 1000 | $P send k 0 1 /dev/stdin"
    bg R sh -c "$P recv k 1 0 /dev/stdout | tail -n 1"
    both 'exit statuses' '0 0'
    is 'the data' 1000 "$(cat "$tmp/R.out")"
}
transfer_other_names_of_stdout() { # /proc/self/fd/1 and //dev/stdout are refused: in a child they are something else
    seq 100000 >"$tmp/in"
    for name in /proc/self/fd/1 //dev/stdout; do
        bg S "$P" send k 0 1 "$tmp/in"
        bg R sh -c "$P recv k 1 0 $name >$tmp/got"
        both "$name: exit statuses" '1 1'
        has "$name: told" "$tmp/R.err" "^pashlib: recv k: opening $name: "
    done
}
transfer_without_blocking() { # standard input and output that do not block
    need 'pipes that do not block' python3 || return
    run python3 -B .test/nonblock.py $P
    is 'the data comes through' 0 "$status"
}

# ---- what cannot be opened, read or written ----

transfer_no_input() { # an input that is not there
    fails "$tmp/none" "$tmp/got" "opening $tmp/none: No such file or directory" \
        'connection lost after 0 bytes: output is incomplete'
}
transfer_unreadable_input() { # an input that can be opened, but not read
    fails "$tmp" "$tmp/got" "reading $tmp: Is a directory" 'connection lost after 0 bytes: output is incomplete'
}
transfer_no_output() { # an output that cannot be made
    seq 100000 >"$tmp/in"
    fails "$tmp/in" "$tmp/none/x" "$lost" "opening $tmp/none/x: No such file or directory"
}
transfer_full_disk() { # an output that takes nothing
    seq 100000 >"$tmp/in"
    fails "$tmp/in" /dev/full "$lost" 'writing /dev/full: No space left on device'
}
transfer_long_path() { # a path of more than 800 bytes that is not there: the reason behind it is not cut off
    bg S "$P" send k 0 1 "$tmp/$(printf %0200d/ 0 0 0 0)none"
    bg R "$P" recv k 1 0 "$tmp/got"
    both 'exit statuses' '1 1'
    has 'told' "$tmp/S.err" 'No such file or directory$'
}

# ---- standard input, output and error that are closed, dead or stuck ----

transfer_stdin_closed() { # standard input is wanted, and closed
    bg S sh -c "$P send k 0 1 <&-"
    bg R "$P" recv k 1 0 "$tmp/got"
    both 'exit statuses' '1 1'
    has 'told' "$tmp/S.err" 'opening -: Bad file descriptor'
}
transfer_stdout_closed() { # standard output is wanted, and closed
    seq 100000 >"$tmp/in"
    bg S "$P" send k 0 1 "$tmp/in"
    bg R sh -c "$P recv k 1 0 >&-"
    both 'exit statuses' '1 1'
    has 'told' "$tmp/R.err" 'opening -: Bad file descriptor'
}
transfer_all_closed() { # standard input, output and error are closed, and none of them is needed
    seq 100000 >"$tmp/in"
    bg S sh -c "$P send k 0 1 $tmp/in <&- >&- 2>&-"
    bg R "$P" recv k 1 0 "$tmp/got"
    both 'exit statuses' '0 0'
    is 'the data' "$(sha256sum <"$tmp/in")" "$(sha256sum <"$tmp/got")"
}
transfer_dead_stderr() { # nobody reads standard error: that stops nothing
    seq 100000 >"$tmp/in"
    bg S sh -c "{ $P send k 0 1 $tmp/in; echo \$? >&3; } 3>$tmp/S.status 2>&1 | true"
    bg R sh -c "{ $P recv k 1 0 $tmp/got; echo \$? >&3; } 3>$tmp/R.status 2>&1 | true"
    both 'the pipelines end' '0 0'
    is 'exit statuses' '0 0' "$(cat "$tmp/S.status") $(cat "$tmp/R.status")"
    is 'the data' "$(sha256sum <"$tmp/in")" "$(sha256sum <"$tmp/got")"
}
transfer_stuck_stderr() { # a standard error that is stuck costs one second in all, not one a line
    need 'a stuck standard error' python3 || return
    for stream in $(seq 20); do
        set -- "$@" "recv*$stream*1*0*$tmp/$stream"
    done
    run env PASH_PEER_TIMEOUT_MS=100 python3 -B .test/stuck.py $P "$@"
    is 'exit status' 1 "$(cut -d' ' -f1 "$tmp/out")"
    at_most 'seconds, where the streams have more than 60 lines to tell' 12 "$(cut -d' ' -f2 "$tmp/out")"
}
