# fuzz: what comes from outside, under libFuzzer and sanitizers, FUZZ_SECONDS (20) for each decoder
# cases: at once
# fuzz.c has a target for each case, and fuzz.seeds is what it starts from.

fuzz_setup() {
    need 'fuzzing' clang || return 1
    clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -I. -o "$tmp/fuzz" .test/fuzz.c \
        2>"$tmp/err" || {
        skip 'fuzzing' "no libFuzzer: $(grep -m 1 -i -e error -e cannot "$tmp/err")"
        return 1
    }
    write_seeds
}

# Write each input of fuzz.seeds into a file $shared/seeds/TARGET/NUMBER.
write_seeds() {
    number=0
    sed -e :more -e '/\\$/{' -e 'N; s/\\\n *//; b more' -e '}' -e '/^#/d; /^$/d' .test/fuzz.seeds |
    while read -r targets form input; do
        number=$((number + 1))
        if [ "$form" = hex ]; then
            # shellcheck disable=SC2046 # Each byte is a word: each becomes \OCTAL.
            input=$(printf '\\%03o' $(echo "$input" | sed 's/../0x& /g'))
        fi
        for target in $(echo "$targets" | tr , ' '); do
            mkdir -p "$shared/seeds/$target"
            # shellcheck disable=SC2059 # The input is a format.
            printf "$input" >"$shared/seeds/$target/$number"
        done
    done
}

# TARGET: run it. The deadline is generous, since all of them share the machine with the other tests.
fuzz_it() {
    seconds=${FUZZ_SECONDS-20}
    mkdir "$tmp/corpus"
    bg fuzz env FUZZ="$1" nice -n 19 "$shared/fuzz" -max_total_time="$seconds" -max_len=4096 -timeout=60 \
        -rss_limit_mb=1024 -artifact_prefix="$tmp/" "$tmp/corpus" "$shared/seeds/$1"
    deadline=$(($(date +%s) + seconds * 4 + 300))
    until [ -f "$tmp/fuzz.rc" ] || [ "$(date +%s)" -gt $deadline ]; do sleep 0.5; done
    [ -f "$tmp/fuzz.rc" ] || stop fuzz
    ended fuzz
    is "nothing is found in $(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$tmp/fuzz.err") runs" 0 "$status"
    [ "$status" = 0 ] || tail -n 30 "$tmp/fuzz.err" | sed 's/^/      /'
    seeds=$(find "$shared/seeds/$1" -type f | wc -l)
    has "it has read all its $seeds seeds" "$tmp/fuzz.err" "^INFO: seed corpus: files: $seeds "
}

fuzz_stun() { # a STUN server's datagrams
    fuzz_it stun
}
fuzz_stuntcp() { # what a STUN server sends by TCP
    fuzz_it stuntcp
}
fuzz_http() { # what an HTTP server sends
    fuzz_it http
}
fuzz_json() { # JSON, of DynamoDB and of a registration
    fuzz_it json
}
fuzz_address() { # addresses
    fuzz_it address
}
fuzz_hello() { # what somebody without the key says when he has connected
    fuzz_it hello
}
fuzz_frames() { # what a sender sends
    fuzz_it frames
}
fuzz_stream() { # a stream on the command line
    fuzz_it stream
}
fuzz_settings() { # values of settings
    fuzz_it settings
}
