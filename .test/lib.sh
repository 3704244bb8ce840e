# shellcheck shell=sh
# What cases are made of. test.sh reads this file, then the files of the groups that it runs.
#
# A case runs in a shell of its own. It finds:
#   $P      the program under test, built from pashlib.c as it is now (no blanks in it: it needs no quotes)
#   $tmp    a directory of its own, empty at the start; TMPDIR is the same, and the rendezvous is dir:$tmp/rdv
#   $work   the run's directory; $shared is the part of it that the group's GROUP_setup fills
# The environment holds none of the caller's settings, and says: no STUN, no IMDS, public address 127.0.0.1, and
# PASH_PEER_TIMEOUT_MS=20000. Other settings go through env: run env PASH_LOG=debug $P addr; run env -u NAME ...

# ---- checks: each is one of the case's checks ----

pass() {                                            # NAME
    echo pass >>"$counts"
    [ -z "${VERBOSE-}" ] || echo "    ok - $1"
}
fail() {                                            # NAME DETAIL...
    echo fail >>"$counts"
    echo "    not ok - $1"
    shift
    printf '%s\n' "$@" | sed 's/^/      /'
    [ -z "${ran-}" ] || echo "      the last command was: $ran"
}
skip() {                                            # NAME REASON: a failure with REQUIRE_ALL=1
    [ -z "${REQUIRE_ALL-}" ] || { fail "$1" "skipped, with REQUIRE_ALL=1: $2"; return; }
    echo skip >>"$counts"
    echo "    skip - $1: $2"
}
is() {                                              # NAME WANT GOT: the two texts are the same
    if [ "$2" = "$3" ]; then pass "$1"; else fail "$1" "want: $2" " got: $3"; fi
}
at_most() {                                         # NAME MOST GOT: numbers
    if [ "$3" -le "$2" ]; then pass "$1"; else fail "$1" "want: at most $2" " got: $3"; fi
}
has() {                                             # NAME FILE BASIC-REGEX: a line of the file matches
    if grep -q -e "$3" "$2" 2>/dev/null; then pass "$1"; else
        fail "$1" "want: a line of $2 that matches $3" " got: $(head -c 1500 "$2" 2>&1)"
    fi
}
hasnt() {                                           # NAME FILE BASIC-REGEX: the file is there, and no line matches
    if [ ! -f "$2" ]; then fail "$1" "there is no file $2"
    elif grep -q -e "$3" "$2"; then
        fail "$1" "want: no line of $2 that matches $3" " got: $(head -c 1500 "$2")"
    else pass "$1"; fi
}
absent() {                                          # NAME FILE: there is no such file
    if [ -e "$2" ]; then fail "$1" "want: no file $2"; else pass "$1"; fi
}
need() {                                            # NAME PROGRAM...: a skip, and 1, where a program is missing
    need_name=$1
    shift
    for program in "$@"; do
        command -v "$program" >/dev/null || { skip "$need_name" "there is no $program"; return 1; }
    done
}

# ---- processes ----

run() {                                             # COMMAND...: to its end; $status, $tmp/out and $tmp/err
    ran=$*
    timeout 60 "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    status=$?
}
compile() {                                         # COMMAND...: as run, but it may take any time
    ran=$*
    "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    status=$?
}
# Ask every 50 ms at first, later less often: each sleep costs a process, and many cases wait at the same time. It says
# nothing when it gives up: until_true ... || fail NAME.
until_true() {                                      # COMMAND...: until it holds; 1 after 40 s
    tries=0
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -lt 20 ]; then sleep 0.05
        elif [ $tries -lt 176 ]; then sleep 0.25
        else return 1; fi
    done
}
# In the background: $tmp/NAME.out, NAME.err, NAME.pid; see ended and stop. What still runs at the end of the case is
# killed.
bg() {                                              # NAME COMMAND...
    bg_name=$1
    shift
    ran="$* (in the background)"
    rm -f "$tmp/$bg_name.rc" "$tmp/$bg_name.pid"
    (
        sh -c 'echo $$ >"$0.pid"; exec "$@"' "$tmp/$bg_name" "$@" \
            >"$tmp/$bg_name.out" 2>"$tmp/$bg_name.err" </dev/null
        echo $? >"$tmp/$bg_name.rc1"
        mv "$tmp/$bg_name.rc1" "$tmp/$bg_name.rc"
        rm -f "$tmp/$bg_name.pid"
    ) 2>/dev/null &
    until_true test -s "$tmp/$bg_name.pid" -o -f "$tmp/$bg_name.rc"
}
ended() {                                           # NAME: wait for it; $status, or "hangs"
    until_true test -f "$tmp/$1.rc" && status=$(cat "$tmp/$1.rc") || status=hangs
}
pid() { cat "$tmp/$1.pid" 2>/dev/null; }            # NAME
stop() {                                            # NAME: kill it and wait
    [ ! -f "$tmp/$1.pid" ] || kill -9 "$(pid "$1")" 2>/dev/null
    ended "$1"
}
below() {                                           # PID...: all its descendants that are alive
    for below_pid in $(ps -A -o pid=,ppid=,stat= | awk -v p="$1" '$2 == p && $3 !~ /Z/ { print $1 }'); do
        echo "$below_pid"
        below "$below_pid"
    done
}
switches() {                                        # NAME...: how often all their processes have gone to sleep
    for switches_pid in $(for n in "$@"; do below "$(pid "$n")"; pid "$n"; done); do
        awk '$1 == "voluntary_ctxt_switches:" { print $2 }' "/proc/$switches_pid/status" 2>/dev/null
    done | awk '{ n += $1 } END { print n + 0 }'
}
at_end() {                                          # COMMAND: run it when the case ends, however it ends
    ends="$1; ${ends-}"
}

# ---- streams: the processes S and R are the sender and the receiver ----

both() {                                            # NAME WANT: wait for S and R; exit statuses "S R"
    ended S
    sent=$status
    ended R
    is "$1" "$2" "$sent $status"
    [ "$2" = "$sent $status" ] || tail -n 5 "$tmp/S.err" "$tmp/R.err" | sed 's/^/      /'
}
pair() {                                            # NAME: $tmp/in goes to $tmp/got through S and R, whole
    rm -f "$tmp/got"
    bg S "$P" send k 0 1 "$tmp/in"
    bg R "$P" recv k 1 0 "$tmp/got"
    both "$1: exit statuses" '0 0'
    is "$1: the data" "$(sha256sum <"$tmp/in")" "$(sha256sum <"$tmp/got")"
    left_nothing "$1"
}
left_nothing() {                                    # NAME: the rendezvous directory, if it is there, holds nothing
    is "$1: no registration is left" '' "$(find "$tmp/rdv" -mindepth 1 2>/dev/null)"
}

# ---- builds ----

build() {                                           # BUILD FILE: the program as -b BUILD names it; 1: said why not
    case $1 in
    portable) build_with='cc -O2 -DPASHLIB_NO_SPLICE' ;;
    sanitized) build_with='gcc -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all' ;;
    coverage)
        # _exit() forgets the counts, so each call of it writes them first.
        printf '%s\n' '#include <unistd.h>' 'void __gcov_dump(void);' \
            'static inline void gcov_exit(int s) { __gcov_dump(); _exit(s); }' '#define _exit gcov_exit' >"$work/gcov.h"
        build_with="gcc -O0 --coverage -D_GNU_SOURCE= -D_FILE_OFFSET_BITS=64 -include $work/gcov.h"
        ;;
    *) echo "test.sh: -b takes portable, sanitized or coverage, not \"$1\"" >&2; return 1 ;;
    esac
    # shellcheck disable=SC2086 # words
    $build_with -o "$2" pashlib.c
}
coverage_report() {                                 # the lines that no case reached
    (
        cd "$work" || exit
        gcov -o . ./*pashlib.gcda 2>gcov.err | sed -n '/pashlib.c/{n;p;}'
        sed -n 's/^ *#####: *\([0-9]*\):\(.*\)/\1 \2/p' pashlib.c.gcov
    )
}
