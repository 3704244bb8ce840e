# cli: the command line: its words, help, exit statuses, standard output and standard error

cli_wrong_words() { # wrong words: exit 2, one line that says why, nothing on standard output
    while IFS='|' read -r args want; do
        run $P $args
        is "exit 2: pashlib $args" 2 $status
        has "says why: pashlib $args" "$tmp/err" "^pashlib: .*$want"
        is "nothing on standard output: pashlib $args" '' "$(cat "$tmp/out")"
        is "one line: pashlib $args" 1 "$(wc -l <"$tmp/err")"
    done <<'TABLE'
|no stream is named
send k 1 1|send k: ME and PEER are both 1
send k 01 1|send k: ME and PEER are both 1
send k 1|send takes KEY ME PEER
send k 1 2 p q|send takes KEY ME PEER
send k x 1|ME is "x": want a number, 0 to 2147483647
send k 1 2147483648|PEER is "2147483648": want a number
send k -1 1|ME is "-1"
send*k*1*2|"send\*k\*1\*2" is no (send|recv)\*KEY\*ME\*PEER\*PATH
send*k*1*2*|send k: PATH is empty
send**1*2*p|KEY is "": want 1 to 255 bytes
copy*k*1*2*p|"copy" is not send or recv
copy|"copy" is no (send|recv)
send*k*1*2*p send*k*01*3*q|KEY "k" and node 1 come twice
send*k*1*2*p recv*k*1*2*q|KEY "k" and node 1 come twice
send*k*1*2*- send*l*1*2*-|two streams share standard input
recv*k*1*2*- recv*l*1*2*-|two streams share standard output
addr x|addr stands alone
--nonsense|"--nonsense" is no
TABLE
}
cli_wrong_keys() { # a KEY that is too long or has a star; control characters are escaped where it is shown
    run $P "send*$(printf '%0256d' 0)*1*2*p"
    is 'KEY of 256 bytes' 2 $status
    run $P send 'a*b' 1 2 p
    is 'KEY with a star' 2 $status
    run $P "$(printf 'send*a\033[31m\302\233b\177c*1*1*p')"
    has 'control characters are escaped' "$tmp/err" '^pashlib: send a\\x1b\[31m\\xc2\\x9bb\\x7fc: ME and'
}
cli_help() { # --help fits a terminal
    run $P --help
    is 'exit status' 0 $status
    is 'there is a text' 1 $(($(wc -l <"$tmp/out") > 0))
    at_most '40 lines' 40 "$(wc -l <"$tmp/out")"
    is '80 columns' '' "$(awk 'length > 80' "$tmp/out")"
}
cli_help_settings() { # --help and README name every setting that the program reads, with its default
    sed -n 's/^    ROW("\([A-Z0-9_]*\)", "\([^"]*\)".*/\1 \2/p' pashlib.c >"$tmp/defaults"
    sed -n 's/^    ROW("\([A-Z0-9_]*\)".*/\1/p' pashlib.c >"$tmp/names"
    has 'there are settings' "$tmp/names" '^PASH_RENDEZVOUS$'
    run $P --help
    while read -r name; do
        has "--help has $name" "$tmp/out" "$name"
        has "README has $name" README "^  $name  *"
    done <"$tmp/names"
    while read -r name default; do
        grep -A 1 "^  $name" README | grep -qF -e "$default" || echo "$name $default"
    done <"$tmp/defaults" >"$tmp/missing"
    is 'README has the defaults' '' "$(cat "$tmp/missing")"
}
cli_version() { # --version says which it is, whatever the settings
    run $P --version
    is '--version' '0 pashlib 1.0' "$status $(cat "$tmp/out")"
    run env PASH_LOG=bad $P --version
    is '--version reads no settings' 0 $status
}
cli_output_fails() { # standard output that cannot be written is exit 1
    run sh -c "$P --help >/dev/full"
    is '--help to a full disk' 1 $status
    run sh -c "$P addr >/dev/full"
    is 'addr to a full disk' 1 $status
    has 'addr to a full disk: why' "$tmp/err" 'standard output: No space left'
    run sh -c "$P addr >&-"
    is 'addr to nowhere' 1 $status
    late="until [ -f $tmp/gone ]; do sleep 0.02; done; $P addr; echo \$? >$tmp/rc"
    run sh -c "{ $late; } | { exec <&-; touch $tmp/gone; }"
    is 'addr to a reader that has gone' 1 "$(cat "$tmp/rc")"
}
cli_errors_fail() { # standard error that cannot be written stops nothing
    run sh -c "$P addr 2>&-"
    is 'addr with standard error closed' '0 source=PASH_PUBLIC_IP' "$status $(grep source "$tmp/out")"
    run sh -c "$P addr 2>/dev/full"
    is 'addr with standard error full' '0 source=PASH_PUBLIC_IP' "$status $(grep source "$tmp/out")"
}
cli_addr() { # what addr prints can be given to eval
    run env -u PASH_PUBLIC_IP $P addr
    is 'exit status' 0 $status
    eval "$(cat "$tmp/out")"
    is 'fit for eval' "local $local_addr" "$source $external_addr"
}
cli_addr_public() { # addr prints the address that PASH_PUBLIC_ADDR or PASH_PUBLIC_IP gives
    run env PASH_PUBLIC_ADDR=203.0.113.7:40000 $P addr
    is 'PASH_PUBLIC_ADDR' 'local_addr=127.0.0.1:40000 external_addr=203.0.113.7:40000 source=PASH_PUBLIC_ADDR' \
        "$(tr '\n' ' ' <"$tmp/out" | sed 's/ $//')"
    run env 'PASH_PUBLIC_ADDR=[2001:db8::7]:40000' $P addr
    has 'PASH_PUBLIC_ADDR, IPv6' "$tmp/out" '^external_addr=\[2001:db8::7\]:40000$'
    run env PASH_PUBLIC_IP=2001:db8::7 $P addr
    has 'PASH_PUBLIC_IP, IPv6' "$tmp/out" '^external_addr=\[2001:db8::7\]:[1-9]'
}
cli_log() { # PASH_LOG=error says nothing where all is well, PASH_LOG=debug shows each call
    run env PASH_LOG=error $P addr
    is 'PASH_LOG=error is quiet' '0 ' "$status $(cat "$tmp/err")"
    run env PASH_LOG=debug $P addr
    has 'PASH_LOG=debug shows calls' "$tmp/err" 'connect('
}
