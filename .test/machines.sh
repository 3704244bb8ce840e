# machines: other processors, under emulators: the unit tests, and streams from and to this machine

machine() {                                         # EMULATOR COMPILER...: the checks of one machine
    emulator=$1
    shift
    need "$emulator" "$1" "$emulator" || return
    compile "$@" -O2 -static -w -I. -o "$tmp/unit" .test/unit.c
    [ $status = 0 ] || { skip "$emulator" "the unit tests do not compile: $(head -n 2 "$tmp/err")"; return; }
    run "$emulator" "$tmp/unit"
    is "the unit tests: $(tail -n 1 "$tmp/out")" 0 $status
    [ $status = 0 ] || cat "$tmp/out" "$tmp/err"
    compile "$@" -O2 -static -w -o "$tmp/pashlib" pashlib.c
    head -c 300001 /dev/urandom >"$tmp/in"
    bg S "$emulator" "$tmp/pashlib" send k 0 1 "$tmp/in"
    bg R $P recv k 1 0 "$tmp/got-here"
    both 'from there to here' '0 0'
    is 'from there to here: the data' "$(sha256sum <"$tmp/in")" "$(sha256sum <"$tmp/got-here")"
    bg S $P send k 0 1 "$tmp/in"
    bg R "$emulator" "$tmp/pashlib" recv k 1 0 "$tmp/got-there"
    both 'from here to there' '0 0'
    is 'from here to there: the data' "$(sha256sum <"$tmp/in")" "$(sha256sum <"$tmp/got-there")"
}

machines_arm64() { # arm64, as Graviton is
    machine qemu-aarch64 aarch64-linux-gnu-gcc
}
machines_s390x() { # s390x, which is big-endian
    machine qemu-s390x s390x-linux-gnu-gcc
}
machines_i386() { # i386, which has 32 bits
    machine qemu-i386 gcc -m32 -idirafter /usr/include/x86_64-linux-gnu
}
