# imds: the address that the instance metadata service (IMDS) gives, and when it is asked

imds_setup() {
    need 'IMDS' python3 || return
    bg imds python3 .test/imds.py "$tmp/imds"
    bg stun python3 .test/stun.py "$tmp/stun"
    until_true test -f "$tmp/imds" -a -f "$tmp/stun" && return
    fail 'the fake servers are up' "$(cat "$tmp/imds.err" "$tmp/stun.err")"
    return 1
}
imds() {                                            # MODE: the URL of the fake IMDS of that mode
    echo "http://127.0.0.1:$(awk -v mode="$1" '$1 == mode { print $2 }' "$shared/imds")"
}
server() {                                          # MODE: where the fake STUN server of that mode is
    echo "127.0.0.1:$(awk -v mode="$1" '$1 == mode { print $2 }' "$shared/stun")"
}
addr() {                                            # SETTING...: pashlib addr, with STUN and IMDS, and no STUN server;
    run env -u PASH_NO_HOLEPUNCH -u PASH_PUBLIC_IP -u AWS_EC2_METADATA_DISABLED \
        PASH_STUN_SERVER=127.0.0.1:9 "$@" $P addr   # $status, $tmp/out, $tmp/err
}
meta() {                                            # MODE SETTING...: the same, with the fake IMDS of that mode
    meta_mode=$1
    shift
    addr AWS_EC2_METADATA_SERVICE_ENDPOINT="$(imds "$meta_mode")" "$@"
}
value() { sed -n "s/^$1=//p" "$tmp/out"; }          # NAME: what pashlib addr has printed for it
requests() { grep -c "^$1 '$2" "$shared/imds.log"; }    # MODE START: how many requests begin so

# ---- what it may answer ----

imds_gives() { # the address is taken, from IMDSv2 and v1, however slow or oddly put it comes
    for mode in v2 v1 v1-404 v1-500 hang newline nolen slow; do
        meta $mode
        has "$mode: the address" "$tmp/out" '^external_addr=198.51.100.9:[0-9]*$'
        has "$mode: its source" "$tmp/out" '^source=imds$'
        has "$mode: it is told" "$tmp/err" '^pashlib: AWS metadata service returned public IP: 198.51.100.9$'
    done
}
imds_phrases() { # the phrases of the log that users search for come word for word, in order
    meta v2
    cat >"$tmp/want" <<'END'
pashlib: STUN discovery failed: 127.0.0.1:9: Connection refused
pashlib: Using fallback address resolution...
pashlib: AWS metadata service returned public IP: 198.51.100.9
pashlib: Fallback succeeded - local_addr: ADDRESS external_addr: 198.51.100.9:PORT
END
    sed 's/local_addr: [0-9.:]*/local_addr: ADDRESS/; s/198.51.100.9:[0-9]*/198.51.100.9:PORT/' "$tmp/err" >"$tmp/got"
    is 'the log' "$(cat "$tmp/want")" "$(cat "$tmp/got")"
}
imds_gives_none() { # what is no public address is told with its reason, and the local address is used
    while IFS='|' read -r mode reason; do
        meta "$mode"
        has "$mode: the reason" "$tmp/err" "^pashlib: AWS metadata query failed: .*$reason"
        has "$mode: the local address" "$tmp/out" '^source=local$'
    done <<'END'
nopub|this instance has no public IPv4 address
garbage|"hello" is no public IPv4 address
ipv6|"2001:db8::9" is no public IPv4 address
nul|"198.51.100.9" is no public IPv4 address
unspec|"0.0.0.0" is no public IPv4 address
redirect|GET /latest/meta-data/public-ipv4: status 302
END
}
imds_breaks() { # answers that are cut, too long or malformed are told with the reason, and the local address is used
    while IFS='|' read -r mode reason; do
        meta "$mode"
        has "$mode: the reason" "$tmp/err" "^pashlib: AWS metadata query failed: .*$reason"
        has "$mode: the local address" "$tmp/out" '^source=local$'
    done <<'END'
cut|the body is cut: 11 of 12 bytes
cuthead|the answer is cut in its head
closed|cut in its head\|reset
badlen|Content-Length is "1x"
toolong|the answer is too long
badtoken|its token is empty, or not ASCII
put400|PUT /latest/api/token: status 400
END
}
imds_too_slow() { # where it does not answer within 2 s, the local address is used
    for mode in slower quiet; do
        # A busy machine may be slow once, but not each time.
        for try in 1 2 3 4; do
            began=$(date +%s%3N)
            meta $mode
            took=$(($(date +%s%3N) - began))
            [ $took -gt 6000 ] || break
        done
        at_most "$mode: it is not waited for, which would take 10 s and more" 6000 $took
        has "$mode: the reason" "$tmp/err" \
            '^pashlib: AWS metadata query failed: .*\(in time\|no answer within 2 s\)'
        has "$mode: the local address" "$tmp/out" '^source=local$'
    done
    addr AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:9/
    has 'nobody is there' "$tmp/err" 'AWS metadata query failed: 127.0.0.1:9: Connection refused'
}

# ---- when it is asked ----

imds_disabled() { # AWS_EC2_METADATA_DISABLED and AWS_EC2_METADATA_V1_DISABLED do what the AWS SDKs make of them
    meta v1 AWS_EC2_METADATA_V1_DISABLED=TRUE
    has 'v1 disabled, v1 there' "$tmp/err" \
        'query failed: PUT /latest/api/token: status 403, and AWS_EC2_METADATA_V1_DISABLED is true'
    meta v2 AWS_EC2_METADATA_V1_DISABLED=true
    has 'v1 disabled, v2 there' "$tmp/out" '^source=imds$'
    meta v2 AWS_EC2_METADATA_DISABLED=True
    has 'disabled' "$tmp/err" 'query failed: AWS_EC2_METADATA_DISABLED is true'
    meta v2 AWS_EC2_METADATA_DISABLED=1
    has '1 is not true' "$tmp/out" '^source=imds$'
}
imds_settings_first() { # PASH_PUBLIC_ADDR and PASH_PUBLIC_IP come before it, and it is not asked
    before=$(requests v2)
    meta v2 PASH_PUBLIC_IP=203.0.113.5
    is 'PASH_PUBLIC_IP comes before IMDS' '0 PASH_PUBLIC_IP' "$status $(value source)"
    is 'IMDS is not asked' "$before" "$(requests v2)"
    meta v2 PASH_PUBLIC_IP=203.0.113.5 PASH_PUBLIC_ADDR=203.0.113.6:22000
    has 'PASH_PUBLIC_ADDR comes before PASH_PUBLIC_IP' "$tmp/out" '^external_addr=203.0.113.6:22000$'
    hasnt 'nothing is said of what was not asked' "$tmp/err" 'AWS metadata'
}
imds_head_start() { # STUN has a head start of 750 ms; then the first address is taken, the local one at the end
    # The answer comes after 500 ms: a busy machine may miss the head start, once.
    for try in 1 2 3 4 5 6 7 8 9 10; do
        meta v2 PASH_STUN_SERVER="$(server lose1)" PASH_STUN_TIMEOUT_MS=1400
        [ "$(value source)" != stun ] || break
    done
    has 'one lost packet does not decide' "$tmp/out" '^source=stun$'
    meta v2 PASH_STUN_SERVER="$(server silent)"
    has 'after the head start' "$tmp/err" 'STUN discovery failed: 127.0.0.1:[0-9]*: no answer within 750 ms'
    has 'after the head start IMDS is taken' "$tmp/out" '^source=imds$'
    meta nopub PASH_STUN_SERVER="$(server silent)" PASH_STUN_TIMEOUT_MS=1500
    has 'the local address waits until STUN has given up' "$tmp/err" \
        'failed: 127.0.0.1:[0-9]*: no answer within 1500 ms'
}
imds_without_stun() { # where STUN is skipped, IMDS is asked; with PASH_NO_HOLEPUNCH neither is
    meta v2 PASH_STUN_TIMEOUT_MS=0
    has 'STUN is skipped, IMDS asked' "$tmp/out" '^source=imds$'
    before=$(requests v2)
    meta v2 PASH_NO_HOLEPUNCH=1
    is 'PASH_NO_HOLEPUNCH: the local address' local "$(value source)"
    hasnt 'PASH_NO_HOLEPUNCH: nothing is said of IMDS' "$tmp/err" metadata
    is 'PASH_NO_HOLEPUNCH: IMDS is not asked' "$before" "$(requests v2)"
}
imds_once() { # a process asks once, for all its streams
    before=$(requests v2 GET)
    run env -u PASH_NO_HOLEPUNCH -u PASH_PUBLIC_IP -u AWS_EC2_METADATA_DISABLED PASH_PEER_TIMEOUT_MS=100 \
        PASH_STUN_TIMEOUT_MS=0 AWS_EC2_METADATA_SERVICE_ENDPOINT="$(imds v2)" \
        $P "recv*a*1*0*$tmp/a" "recv*b*1*0*$tmp/b" "recv*c*1*0*$tmp/c"
    is 'one request of the address' 1 $(($(requests v2 GET) - before))
    is 'one line of the log, and one for each stream' '1 3' \
        "$(grep -c 'AWS metadata' "$tmp/err") $(grep -c 'Fallback succeeded' "$tmp/err")"
}
