# audit: what the program uses and touches: symbols, system calls, files, addresses

# System calls: what every program makes when it starts and ends, and what this one makes.
start='execve brk mmap munmap mprotect arch_prctl access openat read pread64 close fstat newfstatat
    set_tid_address set_robust_list rseq prlimit64 exit_group'
net='socket setsockopt getsockopt bind listen getsockname connect sendto recvfrom poll fcntl getrandom'
process='clone wait4 kill getpid getppid prctl socketpair sendmsg recvmsg
    rt_sigaction rt_sigprocmask rt_sigreturn write geteuid'
transfer='accept shutdown splice ioctl ppoll dup2 setitimer rt_sigtimedwait clock_nanosleep mkdir rmdir unlink rename'

beyond() {                                          # CALL...: the system calls in the trace that are not among these
    printf '%s\n' "$@" >"$tmp/allowed"
    sed -n 's/^[0-9]* *\([a-z_0-9]*\)(.*/\1/p' "$tmp/trace" | sort -u | grep -vxF -f "$tmp/allowed" | tr '\n' ' '
}
connects() {                                        # "IP:PORT" of every connect() in the trace
    sed -n 's/.* connect(.*htons(\([0-9]*\)).*"\(::ffff:\)*\([0-9a-f.:]*\)".*/\3:\1/p' "$tmp/trace" | sort -u
}
strace_works() {                                    # NAME: or a skip, and 1
    need "$1" strace || return
    strace -f -o "$tmp/try" true 2>/dev/null && return
    skip "$1" 'strace does not work here'
    return 1
}

audit_symbols() { # nothing but libc is used, and nothing in it that runs programs
    need 'symbols' nm || return
    libc=$(cc -print-file-name=libc.so.6)
    [ -f "$libc" ] || { skip 'symbols' "there is no $libc"; return; }
    cc -O2 -c -o "$tmp/x.o" pashlib.c
    nm -u "$tmp/x.o" | awk '{ print $2 }' | sort -u >"$tmp/used"
    nm -D --defined-only "$libc" | awk '{ sub(/@.*/, "", $3); print $3 }' | sort -u >"$tmp/libc"
    has 'symbols are used' "$tmp/used" '^socket$'
    is 'no symbol outside libc' '' "$(comm -23 "$tmp/used" "$tmp/libc" | grep -v '^_GLOBAL_OFFSET_TABLE_$')"
    is 'no program is run, no name can be guessed' '' \
        "$(grep -E '^(exec|system|popen|posix_spawn|tmpnam|mktemp|tempnam|dlopen)' "$tmp/used")"
}
audit_words() { # the source calls no function that runs programs
    is 'the words system, popen, exec are not called' '' "$(grep -nE '\b(exec[lv]|system|popen)\w*\(' pashlib.c)"
}
audit_addr() { # pashlib addr: its system calls, and whom it asks
    strace_works 'addr under strace' || return
    run strace -f -o "$tmp/trace" env -u PASH_NO_HOLEPUNCH -u PASH_PUBLIC_IP AWS_EC2_METADATA_DISABLED=false \
        AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:9 PASH_STUN_SERVER=127.0.0.1:9,tcp:127.0.0.1:9 $P addr
    is 'exit status' 0 $status
    is 'system calls' '' "$(beyond $start $net $process)"
    # By the latter two, the kernel says from which address it would send; no packet goes there.
    is 'addresses' '127.0.0.1:9 2001:db8::1:9 203.0.113.1:9 ' "$(connects | tr '\n' ' ')"
    is 'one program is run, and env' 2 "$(grep -c execve "$tmp/trace")"
}
audit_stream() { # a stream between FIFOs: system calls, files and addresses of both ends
    strace_works 'a stream under strace' || return
    echo data >"$tmp/in"
    mkfifo "$tmp/fifo-in" "$tmp/fifo-out"
    bg S strace -f -o "$tmp/trace-S" $P send k 1 2 "$tmp/fifo-in"
    bg R strace -f -o "$tmp/trace-R" $P recv k 2 1 "$tmp/fifo-out"
    bg reader cat "$tmp/fifo-out"
    bg writer cp "$tmp/in" "$tmp/fifo-in"
    both 'exit statuses' '0 0'
    ended reader
    is 'the data' data "$(cat "$tmp/reader.out")"
    cat "$tmp/trace-S" "$tmp/trace-R" >"$tmp/trace"
    is 'system calls' '' "$(beyond $start $net $process $transfer)"
    is 'one program is run at each end' 2 "$(grep -c execve "$tmp/trace")"
    sed -n 's/.* openat([A-Z_]*, "\([^"]*\)".*/\1/p' "$tmp/trace" | sort -u >"$tmp/files"
    has 'files are opened' "$tmp/files" "^$tmp/fifo-in$"
    is 'files' '' "$(grep -v -e "^$tmp/rdv/k/" -e "^$tmp/fifo-" -e '^/dev/null$' \
        -e '^/etc/ld.so.cache$' -e '/libc.so.6$' -e '/lib.*san' "$tmp/files")"
    is 'addresses' '127.0.0.1 2001:db8::1 203.0.113.1 ' "$(connects | sed 's/:[0-9]*$//' | sort -u | tr '\n' ' ')"
}
