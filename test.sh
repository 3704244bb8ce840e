#!/bin/sh
# Functions are called by composed names, and lists of names, flags and pids are meant to be split into words.
# shellcheck disable=SC2329,SC2317,SC2086,SC2046,SC2034,SC2016,SC2030,SC2031,SC1091,SC2093
usage() {
    cat <<'END'
usage: ./test.sh [-v] [-b BUILD] [GROUP|GROUP.CASE]...   the tests; without names, all of them
       ./test.sh -l                                      list groups and cases
       ./test.sh demo                                    a splitter, two workers and a merger around sort
       ./test.sh bench [CASE]...                         how fast it is, beside nc and socat: see .test/bench/bench.sh
       ./test.sh soak                                    1,000 transfers in a row, then 64 at once for two minutes

  -v          show each check
  -b BUILD    test another build: portable (without splice), sanitized, or coverage (tells which lines are reached)

The cases lie in .test/, one file a group; .test/lib.sh says what they are made of. A case that fails keeps its
directory and says where it is. With REQUIRE_ALL=1 a skipped check is a failed one. Everything runs in network
namespaces of its own, where they can be made, and drops the caller's settings.
END
}
cd "$(dirname "$0")" || exit 2
P=./pashlib

# ---- the main job, in the shape in which PaSh generates it ----

demo() {
    lines=${DEMO_LINES-12000000}
    awk -v n="$lines" 'BEGIN { srand(42); for (i = 0; i < n; i++) printf "%d\n", rand() * 1e8 }' >"$work/input"
    echo "$lines lines, $(wc -c <"$work/input") bytes; plain sort ..."
    began=$(now)
    sort "$work/input" >"$work/want" && echo "$(($(now) - began)) ms"
    mkdir "$work/n0" "$work/n1" "$work/n2" "$work/n3"
    mkfifo "$work/n0/a" "$work/n0/b" "$work/n1/in" "$work/n1/out" "$work/n2/in" "$work/n2/out" "$work/n3/a" "$work/n3/b"
    began=$(now)
    # node 0: the splitter
    $P "send*split1*0*1*$work/n0/a" "send*split2*0*2*$work/n0/b" &
    p0=$!
    awk -v a="$work/n0/a" -v b="$work/n0/b" 'NR % 2 { print >a; next } { print >b }' "$work/input" &
    # nodes 1 and 2: the workers
    $P "recv*split1*1*0*$work/n1/in" "send*sorted1*1*3*$work/n1/out" &
    p1=$!
    sort <"$work/n1/in" >"$work/n1/out" &
    $P "recv*split2*2*0*$work/n2/in" "send*sorted2*2*3*$work/n2/out" &
    p2=$!
    sort <"$work/n2/in" >"$work/n2/out" &
    # node 3: the merger
    $P "recv*sorted1*3*1*$work/n3/a" "recv*sorted2*3*2*$work/n3/b" &
    p3=$!
    sort -m "$work/n3/a" "$work/n3/b" >"$work/got"
    bad=0
    for p in $p0 $p1 $p2 $p3; do wait "$p" || bad=1; done
    echo "split, sorted by two workers, merged: $(($(now) - began)) ms"
    [ $bad = 0 ] && cmp "$work/want" "$work/got" && echo 'the result is the same' && return
    echo 'the result is NOT the same, or a stream failed'
    return 1
}

# ---- which cases there are ----

groups() { for f in .test/*.sh; do f=${f##*/} && [ "$f" = lib.sh ] || echo "${f%.sh}"; done; }
# A case is a function GROUP_CASE; a comment on its first line says what it shows.
cases() { sed -n "s/^$1_\([a-z0-9_]*\)() { *# .*/\1/p" ".test/$1.sh"; }
list() {
    for g in $(groups); do
        sed -n "1,3s/^# $g: /$g: /p" ".test/$g.sh"
        sed -n "s/^${g}_\([a-z0-9_]*\)() { *# \(.*\)/  $g.\1 - \2/p" ".test/$g.sh"
    done
}
check_name() {                                      # GROUP or GROUP.CASE: it exists, or exit 2
    if ! groups | grep -qx -e "${1%%.*}"; then
        echo "test.sh: there is no group \"${1%%.*}\"; there are: $(groups | tr '\n' ' ')" >&2
        exit 2
    fi
    case $1 in
    *.*) cases "${1%%.*}" | grep -qx -e "${1#*.}" && return
        echo "test.sh: group ${1%%.*} has no case \"${1#*.}\"; it has: $(cases "${1%%.*}" | tr '\n' ' ')" >&2
        exit 2 ;;
    esac
}

# ---- running them ----

now() { date +%s%3N; }                              # ms
case_begin() {                                      # NAME: set the variables of a case, make its directory
    tmp=$work/$1 counts=$work/$1.counts ends='' ran=''
    TMPDIR=$tmp PASH_RENDEZVOUS=dir:$tmp/rdv
    PASHLIB_CASE="$1 $$"                            # each process of the case carries it: see left_processes
    mkdir "$tmp" || exit 2
    : >"$counts"
    export TMPDIR PASH_RENDEZVOUS PASHLIB_CASE
}
case_end() {
    eval "$ends"
    for pid_file in "$tmp"/*.pid; do
        [ ! -f "$pid_file" ] || kill -9 "$(cat "$pid_file" 2>/dev/null)" 2>/dev/null
    done
}
left_processes() {                                  # NAME: the processes of the case that are still there after 2 s
    for look in 1 2 3 4 5 6 7 8 9 10; do
        left=$(grep -lzxF -e "PASHLIB_CASE=$1 $$" /proc/[0-9]*/environ 2>/dev/null)
        [ -n "$left" ] || return
        sleep 0.2
    done
    echo "$left" | sed 's|/proc/||; s|/.*||'
}
remove() { rm -rf "${1:?}" 2>/dev/null || { sleep 0.2 && rm -rf "$1"; }; } # what ends just now may write there
run_case() {                                        # GROUP CASE: print its line, and what failed
    began=$(now)
    (
        case_begin "$1.$2"
        trap case_end EXIT
        trap 'exit 1' INT TERM HUP
        "$1_$2"
        : >"$work/$1.$2.ended"
    ) >"$work/$1.$2.log" 2>&1
    report "$1.$2" $(($(now) - began))
}
report() {                                          # NAME MS
    counts=$work/$1.counts ran=''
    {
        for p in $(left_processes "$1"); do
            fail 'no process is left behind' "process $p: $(tr '\0' ' ' <"/proc/$p/cmdline" | head -c 200)"
            kill -9 "$p"
        done
        [ -s "$counts" ] || fail 'the case makes a check'
        [ -f "$work/$1.ended" ] || fail 'the case comes to its end' 'its shell ended before; the rest was not run'
    } >>"$work/$1.log" 2>&1
    outcomes=$(cat "$counts") verdict=skip
    case $outcomes in *fail*) verdict='not ok' ;; *pass*) verdict=ok ;; esac
    {
        printf '%-6s %-48s %3d checks %6d ms\n' "$verdict" "$1${build_name:+ ($build_name)}" \
            "$(set -- $outcomes && echo $#)" "$2"
        cat "$work/$1.log"
        [ "$verdict" != 'not ok' ] || echo "      what it left is in $work/$1"
    } >"$work/$1.report"
    cat "$work/$1.report"                           # in one piece: other lanes write, too
    [ "$verdict" = 'not ok' ] || remove "$work/$1"
}
run_group() {                                       # GROUP CASE...
    group=$1 shared=$work/$1.setup
    shift
    # shellcheck source=/dev/null
    . ".test/$group.sh"
    if grep -q "^${group}_setup() {" ".test/$group.sh" && [ ! -d "$shared" ]; then
        case_begin "$group.setup" && echo setup >"$counts"
        if ! "${group}_setup" >"$work/$group.setup.log" 2>&1; then
            set --                                  # no case
            grep -qE 'fail|skip' "$counts" || fail "$group: the setup" 'it failed, and did not say why'
        fi
        cat "$work/$group.setup.log"
        setup_end=$ends
        unset PASHLIB_CASE
    fi
    # To look for leaks takes longer than all the rest of a sanitized start: some groups do it for all.
    case $group in cli | unit | fuzz) unset ASAN_OPTIONS ;; *) export ASAN_OPTIONS=detect_leaks=0 ;; esac
    at_once=$(sed -n '2s/^# cases: at once$/yes/p' ".test/$group.sh") waits=''
    for c in "$@"; do
        run_case "$group" "$c" &
        if [ -n "$at_once" ]; then waits="$waits $!"; else wait $!; fi
    done
    [ -z "$waits" ] || wait $waits
    [ ! -d "$shared" ] || (tmp=$shared ends=${setup_end-} && case_end && remove "$shared")
}
run_names() {                                       # GROUP|GROUP.CASE...
    for name in "$@"; do
        case $name in
        *.*) run_group "${name%%.*}" "${name#*.}" ;;
        *) run_group "$name" $(cases "$name") ;;
        esac
    done
}
# All of them. What waits runs beside what works: the lines run at once, and the groups of a line in turn.
run_all() {
    while read -r words; do
        number=$((${number-0} + 1)) dir=$work/lane$number
        mkdir "$dir" || exit 2
        PASHLIB_NS='' PASHLIB_WORK=$dir ./test.sh ${VERBOSE:+-v} $words </dev/null || touch "$dir/failed" &
        lanes="${lanes-} $!"
    done <<END
-b sanitized cli settings stun discovery imds ports rendezvous processes
-b sanitized dynamodb connect transfer readers
-b portable transfer readers
unit build faults audit soak
dynamodb connect transfer readers processes
cli settings stun discovery imds ports rendezvous nat_never nat_loss
nat nat_ports nat_addr
long nat_long valgrind
fuzz machines runner
END
    trap 'kill $lanes 2>/dev/null; exit 1' INT TERM HUP
    wait $lanes
    for dir in "$work"/*/failed; do
        [ ! -f "$dir" ] || grep -qsx fail "${dir%failed}"*.counts || echo fail >"$work/lane.counts"
    done
}
sum() { cat "$work"/*.counts "$work"/*/*.counts 2>/dev/null | grep -cx "$1"; }

# ---- the command line ----

build_name=''
while getopts vlb:h option; do
    case $option in
    v) VERBOSE=1 ;;
    l) list; exit ;;
    b) build_name=$OPTARG ;;                        # with names: a full run chooses its builds itself
    h) usage; exit ;;
    *) usage >&2 && exit 2 ;;
    esac
done
shift $((OPTIND - 1))
if [ "${1-}" != demo ] && [ ! -f .test/lib.sh ]; then
    echo "test.sh: the tests lie in the directory .test beside it, and it is not here; ./test.sh demo works without" >&2
    exit 2
fi
[ $# -gt 0 ] || [ -z "$build_name" ] || { echo "test.sh: -b $build_name: name the groups to run" >&2 && exit 2; }
case ${1-} in demo | bench) ;; *) for name in "$@"; do check_name "$name"; done ;; esac

# A network namespace with nothing but loopback; mounts made here are not seen outside.
if [ -z "${PASHLIB_NS-}" ] && command -v ip >/dev/null; then
    for user in '' --map-root-user; do
        unshare -n -m $user ip link set lo up 2>/dev/null || continue
        export PASHLIB_NS="root$user"
        exec unshare -n -m $user sh -c 'ip link set lo up; exec "$0" "$@"' ./test.sh ${VERBOSE:+-v} \
            ${build_name:+-b "$build_name"} "$@"
    done
fi
for v in $(env | sed -n 's/^\(PASH_[A-Z_]*\|AWS_[A-Z0-9_]*\)=.*/\1/p'); do unset "$v"; done
LC_ALL=C PASH_NO_HOLEPUNCH=1 AWS_EC2_METADATA_DISABLED=true PASH_PUBLIC_IP=127.0.0.1 PASH_PEER_TIMEOUT_MS=20000
export LC_ALL PASH_NO_HOLEPUNCH AWS_EC2_METADATA_DISABLED PASH_PUBLIC_IP PASH_PEER_TIMEOUT_MS
work=${PASHLIB_WORK-$(mktemp -d "${TMPDIR:-/tmp}/pashlib-test.XXXXXX")} || exit 2
PASH_RENDEZVOUS=dir:$work/rdv TMPDIR=$work
export PASH_RENDEZVOUS TMPDIR VERBOSE
[ -n "${PASHLIB_WORK-}" ] || make -s pashlib || exit 2

[ "${1-}" != demo ] || { demo && rm -rf "$work"; exit; }
[ "${1-}" != soak ] || { SOAK_RUNS=${SOAK_RUNS-1000} SOAK_SECONDS=${SOAK_SECONDS-120}; }
. .test/lib.sh
if [ -n "$build_name" ]; then
    P=$work/pashlib-$build_name
    build "$build_name" "$P" || { rmdir "$work"; exit 2; }
fi
case ${1-} in
bench) trap 'rm -rf "$work"' EXIT && shift && . .test/bench/bench.sh && bench "$@"; exit ;;
'') run_all ;;
*) run_names "$@" ;;
esac
[ "$build_name" != coverage ] || coverage_report
if [ -n "${PASHLIB_WORK-}" ]; then [ "$(sum fail)" = 0 ]; exit; fi
echo "$(sum pass) passed, $(sum fail) failed, $(sum skip) skipped"
[ "$(sum fail)" = 0 ] && rm -rf "$work"
