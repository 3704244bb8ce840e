# faults: system calls that fail, and what becomes of a stream then
# A library that is loaded before libc makes them fail: faults.c. faults.py starts the program with each fault, the
# first, the second and the tenth time that the call is made.

faults_setup() {
    need 'failing system calls' python3 || return 1
    cc -O2 -shared -fPIC -o "$tmp/faults.so" ".test/faults.c" -ldl 2>"$tmp/err" || {
        skip 'failing system calls' "the library does not compile: $(head -n 3 "$tmp/err")"
        return 1
    }
    # The program is compiled plainly: with hardening, some calls have other names, which the library does not know.
    cc -O2 -o "$tmp/program" pashlib.c 2>"$tmp/err" || {
        fail 'the program compiles' "$(head -n 3 "$tmp/err")"
        return 1
    }
    LD_PRELOAD=$tmp/faults.so "$tmp/program" --version >"$tmp/out" 2>"$tmp/err" || {
        skip 'failing system calls' "the library cannot be loaded: $(head -n 3 "$tmp/err")"
        return 1
    }
}

# WHAT: run what faults.py calls by that name, with all the faults.
with_faults() {
    timeout 900 python3 .test/faults.py "$tmp" "$shared/program" "$shared/faults.so" "$1" >"$tmp/told" 2>&1 </dev/null
    status=$?
    is "no crash, no hang, no wrong status in $(sed -n 1p "$tmp/told")" 0 "$status"
    [ "$status" = 0 ] || sed '1,2d; s/^/      /' "$tmp/told" | head -n 60
    is 'each of the calls has failed at least once' '' "$(sed -n 2p "$tmp/told")"
}

faults_send_from_a_pipe() { # a sender whose input is a pipe fails with a word, or sends everything
    with_faults send_pipe
}
faults_send_from_a_file() { # a sender whose input is a file fails with a word, or sends everything
    with_faults send_file
}
faults_recv() { # a receiver fails with a word, or receives everything
    with_faults recv
}
faults_addr() { # pashlib addr fails with a word, or prints all its lines
    with_faults addr
}
faults_interrupted() { # calls that are interrupted, one in two, three or five, do no harm to a stream
    with_faults interrupted
}
