# shellcheck shell=sh
# ./test.sh bench [CASE...] reads this file and calls bench(): how fast pashlib is, beside nc and socat where they are
# there.
#
# CASE is a part of the name of a case; without one, all of them are run.
#   BENCH_ROUNDS  7: how often each program is measured; the medians are printed
#   BENCH_MIB     512: how much data one measurement carries, in MiB; some cases take a part of it
#   BENCH_OTHER   another version of pashlib.c, by its absolute path: it is compiled in the same way and measured in the
#                 same rounds, and its figures are those of the name "other"
#
# It runs where there is only loopback, and with reno: BBR would pace the streams and hide every difference. What it
# makes is in $work. bench.py has the cases, streams.py and rest.py measure, load.c makes and takes the data.

bench() {                                           # [CASE...]
    if [ -z "${PASHLIB_NS-}" ]; then
        echo 'test.sh: no network namespace could be made, and the benchmark needs one' >&2
        return 1
    fi
    echo reno >/proc/sys/net/ipv4/tcp_congestion_control
    echo 'int main(void) { return 0; }' >"$work/empty.c"
    cc -O2 -o "$work/empty" "$work/empty.c" || return 1
    cc -O2 -o "$work/load" .test/bench/load.c || return 1
    bench_build pashlib pashlib.c || return 1
    if [ -n "${BENCH_OTHER-}" ]; then
        bench_build other "$BENCH_OTHER" || return 1
    fi
    PASH_LOG=error PYTHONDONTWRITEBYTECODE=1 \
        python3 .test/bench/bench.py "$work" "${BENCH_ROUNDS-7}" "${BENCH_MIB-512}" "$@"
}

# The builds of one version go into $work/NAME: pashlib, portable (without splice) and static. The last is made by the
# Makefile, but in that directory, so that the pashlib in the repository stays what it is.
bench_build() {                                     # NAME SOURCE
    builds=$work/$1
    mkdir "$builds" || return 1
    cp "$2" "$builds/pashlib.c" || return 1
    cp Makefile "$builds/Makefile" || return 1
    make -s -C "$builds" static || return 1
    mv "$builds/pashlib" "$builds/static" || return 1
    cc -O2 -o "$builds/pashlib" "$builds/pashlib.c" || return 1
    cc -O2 -DPASHLIB_NO_SPLICE -o "$builds/portable" "$builds/pashlib.c"
}
