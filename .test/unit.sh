# unit: each decoder by itself, called from C, in three builds of unit.c
# unit.c includes the program; its parts are in unit_*.c. A case runs one part, in every build that could be made.

# Three builds, in $shared: two with sanitizers, which not every machine has, and a plain one, which must work.
unit_setup() {
    for cc in gcc clang; do
        need "unit tests with $cc and sanitizers" $cc || continue
        compile $cc -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -I. -o "$shared/unit-$cc" .test/unit.c
        [ $status = 0 ] || skip "unit tests with $cc and sanitizers" "they do not compile: $(first_error)"
    done
    compile cc -O2 -I. -o "$shared/unit-cc" .test/unit.c
    is 'the unit tests compile' '0 ' "$status $(first_error)"
    [ $status = 0 ]
}
first_error() { grep -m 1 -i -e error -e 'not found' "$tmp/err"; }
part() {                                            # NAME: run this part of the unit tests in each build
    for cc in gcc clang cc; do
        [ -x "$shared/unit-$cc" ] || continue
        run "$shared/unit-$cc" "$1"
        counted=$(tail -n 1 "$tmp/out")
        is "$1 with $cc: $counted" 0 $status
        [ $status = 0 ] || cat "$tmp/out" "$tmp/err"
    done
}

unit_stun() { # STUN answers: the examples of RFC 5769, wrong ones, each also cut at every length
    part stun
}
unit_addresses() { # IP:PORT as text, and in the kernel's form
    part addresses
}
unit_address_kinds() { # which addresses can be a peer's, and which are loopback
    part address_kinds
}
unit_numbers() { # decimal numbers up to a limit, and nothing else
    part numbers
}
unit_hashes() { # SHA-256 and HMAC: the examples of FIPS 180-4 and RFC 4231; comparing in constant time
    part hashes
}
unit_signatures() { # Signature Version 4: examples that AWS has published
    part signatures
}
unit_http() { # HTTP answers: lengths, chunks, wrong ones, each also cut at every length
    part http
}
unit_texts() { # how a text is quoted in JSON
    part texts
}
unit_json() { # a text found in JSON by its path; wrong JSON, each also cut at every length
    part json
}
unit_registrations() { # the addresses in a peer's registration
    part registrations
}
unit_names() { # the file name that a KEY becomes
    part names
}
unit_hello() { # HELLO: its bytes, a fresh nonce, and that each bit counts
    part hello
}
unit_frames() { # frames that come in pieces of every size, and frames that are too large
    part frames
}
unit_parts() { # every part has a case of its own, and a part that does not exist is an error
    is 'each part has a case' "$(sed -n 's/^    { "\([a-z_]*\)", test_.*/\1/p' .test/unit.c | sort)" \
        "$(sed -n 's/^    part \([a-z_]*\)$/\1/p' .test/unit.sh | sort)"
    run "$shared/unit-cc" nonsense
    is 'a part that does not exist' '2 unit: there is no part "nonsense"' "$status $(cat "$tmp/out")"
}
