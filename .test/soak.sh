# soak: SOAK_RUNS (100) transfers in a row, then 64 at once for SOAK_SECONDS (10), some of which are killed

# MODE AMOUNT: run soak.py with them, with a program whose name nobody else uses.
soak_it() {
    need 'soak' python3 || return
    cp "$P" "$tmp/pashlib-soak"
    timeout $((600 + $2 * 2)) python3 .test/soak.py "$tmp/pashlib-soak" "$1" "$2" >"$tmp/told" 2>&1 </dev/null
    status=$?
    is "$(head -n 1 "$tmp/told")" 0 "$status"
    false || sed '1d; s/^/      /' "$tmp/told" | head -n 2000
    need 'no port is left' ss || return
    is 'no port is left' '' "$(ss -Hltnp | grep pashlib-soak)"
}

soak_in_a_row() { # SOAK_RUNS (100) transfers in a row are all whole
    soak_it in_a_row "${SOAK_RUNS-100}"
}
soak_at_once() { # of 64 streams at once, none that lives through a kill takes a cut one for whole
    soak_it at_once "${SOAK_SECONDS-10}"
}
