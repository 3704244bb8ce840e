# runner: test.sh itself, run on a copy of the repository with small groups of its own
# The groups of the copy are mini and other; mini's cases do what their names say.

runner_setup() {
    mkdir -p "$shared/repo/.test"
    cp -p Makefile README pashlib.c pashlib test.sh "$shared/repo"
    cp -p .test/lib.sh "$shared/repo/.test"
    cat >"$shared/repo/.test/mini.sh" <<'END'
# mini: small cases
mini_good() { # it passes
    run true
    is 'true succeeds' 0 $status
    is 'one is one' 1 1
}
mini_wrong() { # it fails
    run echo 'a word'
    is 'the sea is dry' dry wet
}
mini_none() { # it checks nothing
    run true
}
mini_skipped() { # it skips its only check
    skip 'the moon' 'there is none'
}
mini_left() { # it leaves a process behind
    sleep 1000 &
    echo $! >"$MARK"
    pass 'it is started'
}
mini_started() { # it does not stop what it has started with bg
    bg sleeper sleep 1000
    pid sleeper >"$MARK"
    at_end 'echo ended >"$MARK-end"'
    pass 'it is started'
}
mini_dies() { # it ends before its second check
    pass 'the first check'
    . ./no-such-file
    is 'the second check' 1 2
}
mini_settings() { # it sees no settings of its caller
    is 'PASH_LOG' unset "${PASH_LOG-unset}"
    is 'AWS_REGION' unset "${AWS_REGION-unset}"
    is 'TMPDIR' "$tmp" "$TMPDIR"
    is 'an empty directory' '' "$(ls "$tmp")"
}
END
    cat >"$shared/repo/.test/other.sh" <<'END'
# other: a group with a setup
other_setup() {
    echo text >"$shared/file"
    word=known
    [ -z "${BREAK-}" ] || { fail 'the setup' 'it cannot be'; return 1; }
    [ -z "${BREAK_SILENTLY-}" ]
}
other_sees() { # it sees what the setup has made
    is 'the file' text "$(cat "$shared/file")"
    is 'the variable' known "$word"
}
END
}

# A user has none of the variables that are set here; some cases set others, by $with.
as_user='env -u PASHLIB_WORK -u PASHLIB_NS -u VERBOSE -u REQUIRE_ALL -u MAKEFLAGS'
with=''
nested() {                                          # WORD...: as a user would call test.sh in the copy
    run $as_user MARK="$tmp/mark" $with "$shared/repo/test.sh" "$@"
}
last_line() { tail -n 1 "$tmp/out"; }

runner_list() { # -l lists the groups and their cases, and what they show
    nested -l
    is 'exit status' 0 $status
    has 'the group' "$tmp/out" '^mini: small cases$'
    has 'a case' "$tmp/out" '^  mini.wrong - it fails$'
    is 'all of them' 11 "$(wc -l <"$tmp/out")"
    # If it went on to run all, it would not find the groups of a full run.
    run sh -c "{ sleep 0.5; $as_user $shared/repo/test.sh -l; } | true"
    hasnt 'nothing is run where nobody reads the list' "$tmp/err" 'there is no group'
}
runner_unknown() { # a group or a case that does not exist: exit 2, and those that do are named
    nested mini nonsense
    is 'a group: exit status' 2 $status
    has 'a group: told' "$tmp/err" 'there is no group "nonsense"; there are: mini other'
    is 'a group: nothing is run' '' "$(cat "$tmp/out")"
    nested mini.nonsense
    is 'a case: exit status' 2 $status
    has 'a case: told' "$tmp/err" 'group mini has no case "nonsense"; it has: good wrong none skipped left started'
    nested mini.setup
    is 'a setup is no case' 2 $status
    nested -x
    is 'an option: exit status' 2 $status
    has 'an option: the usage' "$tmp/err" '^usage: '
    nested -b nonsense mini.good
    is 'a build: exit status' 2 $status
    has 'a build: told' "$tmp/err" 'portable, sanitized or coverage'
}
runner_passing() { # a case that passes has a line of its own, the run ends with the numbers, and nothing is kept
    nested mini.good
    is 'exit status' 0 $status
    has 'the case' "$tmp/out" '^ok  *mini\.good  *2 checks  *[0-9]* ms$'
    is 'the last line' '2 passed, 0 failed, 0 skipped' "$(last_line)"
    is 'that is all' 2 "$(wc -l <"$tmp/out")"
    is 'nothing is kept' '' "$(find "$tmp" -name 'pashlib-test.*')"
    nested -v mini.good
    has 'with -v, each check is shown' "$tmp/out" '^ *ok - one is one$'
}
runner_failing() { # a case that fails: exit 1; the command, what was wanted, what came, and where its directory is
    nested mini.good mini.wrong
    is 'exit status' 1 $status
    has 'the case' "$tmp/out" '^not ok  *mini\.wrong  *1 checks  *[0-9]* ms$'
    has 'the check' "$tmp/out" '^ *not ok - the sea is dry$'
    has 'what was wanted' "$tmp/out" '^ *want: dry$'
    has 'what came' "$tmp/out" '^ *got: wet$'
    has 'the command' "$tmp/out" 'the last command was: echo a word$'
    is 'the last line' '2 passed, 1 failed, 0 skipped' "$(last_line)"
    kept=$(sed -n 's/^ *what it left is in //p' "$tmp/out")
    is 'its directory is kept' 'a word' "$(cat "$kept/out")"
}
runner_no_checks() { # a case without a check fails
    nested mini.none
    is 'exit status' 1 $status
    has 'the case' "$tmp/out" '^not ok  *mini\.none '
    has 'why' "$tmp/out" 'not ok - the case makes a check'
    is 'the last line' '0 passed, 1 failed, 0 skipped' "$(last_line)"
}
runner_dying() { # a case whose shell ends before its last line fails
    nested mini.dies
    is 'exit status' 1 $status
    has 'why' "$tmp/out" 'not ok - the case comes to its end'
    is 'the last line' '1 passed, 1 failed, 0 skipped' "$(last_line)"
}
runner_left_process() { # a process that is left behind is a failure, and is ended
    nested mini.left
    is 'exit status' 1 $status
    has 'why' "$tmp/out" 'not ok - no process is left behind'
    has 'which' "$tmp/out" "process $(cat "$tmp/mark"): sleep 1000"
    gone
    is 'the last line' '1 passed, 1 failed, 0 skipped' "$(last_line)"
}
gone() {                                            # the process of which $tmp/mark tells is not there any more
    until_true sh -c "! kill -0 $(cat "$tmp/mark")"
    is 'the process is gone' '' "$(ps -o args= -p "$(cat "$tmp/mark")")"
}
runner_started_process() { # what a case has started with bg is ended with it, and what it has put off is done
    nested mini.started
    is 'exit status' 0 $status
    gone
    is 'at_end' ended "$(cat "$tmp/mark-end")"
}
runner_skipping() { # a skip harms nothing, but with REQUIRE_ALL=1 it is a failure
    nested mini.skipped
    is 'exit status' 0 $status
    has 'the case' "$tmp/out" '^skip  *mini\.skipped '
    has 'why' "$tmp/out" 'skip - the moon: there is none'
    is 'the last line' '0 passed, 0 failed, 1 skipped' "$(last_line)"
    with=REQUIRE_ALL=1
    nested mini.skipped
    is 'REQUIRE_ALL=1: exit status' 1 $status
    has 'REQUIRE_ALL=1: why' "$tmp/out" 'skipped, with REQUIRE_ALL=1: there is none'
    is 'REQUIRE_ALL=1: the last line' '0 passed, 1 failed, 0 skipped' "$(last_line)"
}
runner_group_setup() { # the cases of a group see what its setup has made; where that fails, they are not run
    nested other
    is 'exit status' 0 $status
    is 'the last line' '2 passed, 0 failed, 0 skipped' "$(last_line)"
    with=BREAK=1
    nested other
    is 'the setup fails: exit status' 1 $status
    has 'the setup fails: told' "$tmp/out" 'not ok - the setup'
    hasnt 'the setup fails: no case is run' "$tmp/out" 'other\.sees'
    is 'the setup fails: the last line' '0 passed, 1 failed, 0 skipped' "$(last_line)"
    with=BREAK_SILENTLY=1
    nested other
    is 'the setup fails and says nothing: exit status' 1 $status
    is 'the setup fails and says nothing: the last line' '0 passed, 1 failed, 0 skipped' "$(last_line)"
}
runner_settings() { # a case sees none of the settings of the caller, and an empty directory
    with='PASH_LOG=loud AWS_REGION=nowhere'
    nested mini.settings
    is 'the last line' '4 passed, 0 failed, 0 skipped' "$(last_line)"
}
runner_all() { # without names, all lanes are run at once, and one that cannot be run is a failure
    nested
    is 'no lane can be run: exit status' 1 $status
    has 'no lane can be run: the last line' "$tmp/out" '^0 passed, [1-9][0-9]* failed, 0 skipped$'
    cp -rp "$shared/repo" "$tmp/repo"
    awk '/^END$/ && lanes { lanes = 0 }
        !lanes
        /done <<END$/ { lanes = 1; print "mini.good"; print "-b portable mini.good other"; print "mini.skipped" }' \
        "$shared/repo/test.sh" >"$tmp/repo/test.sh"
    $as_user "$tmp/repo/test.sh" >"$tmp/out" 2>"$tmp/err"
    is 'three lanes: exit status' 0 $?
    has 'three lanes: a build of its own' "$tmp/out" '^ok  *mini\.good (portable) '
    is 'three lanes: the last line' '6 passed, 0 failed, 1 skipped' "$(last_line)"
}
runner_without_tests() { # the four files of the top alone: make test says what is missing, make demo works
    mkdir "$tmp/repo"
    cp -p Makefile README pashlib.c test.sh "$tmp/repo"
    $as_user make -C "$tmp/repo" test >"$tmp/out" 2>&1 </dev/null
    is 'make test: exit status' 2 $?
    has 'make test: told' "$tmp/out" 'the tests lie in the directory .test beside it, and it is not here'
    run $as_user DEMO_LINES=20000 make -C "$tmp/repo" demo
    is 'make demo: exit status' 0 $status
    has 'make demo: told' "$tmp/out" '^the result is the same$'
    is 'make demo: nothing is kept' '' "$(find "$tmp" -name 'pashlib-test.*')"
}
runner_finds_all() { # every group says what it is about, is run by ./test.sh, and has no case that is not listed
    ./test.sh -l >"$tmp/list"
    sed -n '/^run_all() {/,/^}/p' test.sh | tr ' ' '\n' >"$tmp/run"
    for file in .test/*.sh; do
        group=${file##*/}
        group=${group%.sh}
        [ "$group" != lib ] || continue
        is "$group: its first line" 1 "$(grep -c "^$group: " "$tmp/list")"
        has "$group: it is run" "$tmp/run" "^$group$"
        is "$group: all its cases are listed" '' "$(unlisted)"
    done
}
unlisted() {                                        # functions of $group that are not listed, and that nothing calls
    functions=$(sed -n "s/^${group}_\([a-z0-9_]*\)().*/\1/p" "$file" | grep -vx setup)
    for name in $functions; do
        grep -q "^  $group\.$name - " "$tmp/list" && continue
        [ "$(grep -cw "${group}_$name" "$file")" != 1 ] || echo "$name"
    done
}
