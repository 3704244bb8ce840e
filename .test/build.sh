# build: what compiles it, without a warning; and the shape of the source, the tests included

warnings='-O2 -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wvla -Werror'


build_gcc() { # gcc has no warning, in C99 neither
    need 'gcc -Wall ...' gcc || return
    quiet gcc
}
build_clang() { # clang has no warning, in C99 neither
    need 'clang -Wall ...' clang || return
    quiet clang
}
quiet() {                                           # COMPILER
    compile $1 $warnings -o "$tmp/x" pashlib.c
    is "no warnings from $1" '0 ' "$status $(head -n 3 "$tmp/err")"
    compile $1 $warnings -std=c99 -pedantic -o "$tmp/x" pashlib.c
    is "no warnings from $1 -std=c99 -pedantic" '0 ' "$status $(head -n 3 "$tmp/err")"
}
build_tcc() { # tcc compiles it
    need 'tcc' tcc || return
    compile tcc -o "$tmp/x" pashlib.c
    run "$tmp/x" --version
    is 'tcc builds it' "0 pashlib $(sed -n 's/#define VERSION "\(.*\)"/\1/p' pashlib.c)" "$status $(cat "$tmp/out")"
}
build_musl() { # musl-gcc makes a static binary of it
    need 'musl' musl-gcc || return
    compile musl-gcc -O2 -static -s -o "$tmp/x" pashlib.c
    run "$tmp/x" --version
    is 'musl-gcc -static builds it' 0 $status
}
build_layer() { # make layer makes a Lambda layer of a small static binary
    need 'make layer' zip musl-gcc python3 || return
    cp Makefile pashlib.c "$tmp"
    compile env -u MAKEFLAGS make -C "$tmp" layer
    is 'make layer' '0 pashlib' \
        "$status $(python3 -m zipfile -l "$tmp/pashlib-layer.zip" 2>&1 | awk 'NR > 1 { print $1 }')"
    at_most 'the static binary has at most 150 KB' 153600 "$(wc -c <"$tmp/pashlib")"
}
build_portable() { # what is not for Linux compiles
    compile cc -O2 -U__linux__ -o "$tmp/portable" pashlib.c
    is 'the portable paths compile' '0 ' "$status $(head -n 3 "$tmp/err")"
}

build_plain() { # pashlib.c asks no more attention of its reader than was agreed
    is 'no line of pashlib.c is wider than 100' '' "$(awk 'length > 100 { print FNR }' pashlib.c)"
}
build_top_level() { # the top of the repository holds four files
    is 'top level' 'Makefile README pashlib.c test.sh ' \
        "$(find . -mindepth 1 -maxdepth 1 ! -name '.*' ! -name pashlib | sed 's|./||' | sort | tr '\n' ' ')"
}
build_lanes() { # every group of the tests is part of a full run
    sed -n '/^run_all() {/,/^END$/p' test.sh | tr ' ' '\n' | sort -u >"$tmp/words"
    for file in .test/*.sh; do
        group=${file##*/}
        [ "$group" = lib.sh ] || has "$group is in a lane of run_all" "$tmp/words" "^${group%.sh}$"
    done
}
build_shellcheck() { # the shell scripts give shellcheck nothing to say
    need shellcheck shellcheck || return
    scripts=$(find .test -name '*.sh')
    compile shellcheck -x test.sh .ci/run $scripts
    is 'shellcheck' '0 ' "$status $(head -n 20 "$tmp/out")"
}
build_python() { # the Python programs of the tests suit Python 3.9, and give pyflakes nothing to say
    need 'Python' python3 pyflakes3 || return
    programs=$(find .test -name '*.py')
    run python3 -c 'import ast, sys
for name in sys.argv[1:]:
    ast.parse(open(name).read(), name, feature_version=(3, 9))' $programs
    is 'Python 3.9 can parse them' '0 ' "$status $(tail -n 5 "$tmp/err")"
    compile pyflakes3 $programs
    is 'pyflakes' '0 ' "$status $(head -n 20 "$tmp/out" "$tmp/err" | grep '[^ ]:[0-9]')"
}
build_harness() { # the C programs of the tests have no warnings
    for compiler in gcc clang; do
        need "the C programs of the tests with $compiler" $compiler || continue
        for program in $(whole_programs); do
            compile $compiler $warnings -I. -c -o "$tmp/x.o" "$program"
            is "no warnings from $compiler: $program" '0 ' "$status $(head -n 3 "$tmp/err")"
        done
    done
}
whole_programs() {                                  # the C files of the tests that are not included by others
    find .test -name '*.c' | while read -r program; do
        grep -rqF --include='*.[ch]' "#include \"${program##*/}\"" .test || echo "$program"
    done
}
build_sizes() { # no file of the tests is too long to be read, no line too wide
    files=$(find .test -type f ! -path '*/__pycache__/*')
    is 'at most 400 lines' '' "$(awk 'FNR == 401 { print FILENAME }' $files)"
    is 'at most 120 columns' '' "$(awk 'length > 120 { print FILENAME ":" FNR }' test.sh $files)"
    at_most 'test.sh has less than 250 lines' 249 "$(wc -l <test.sh)"
}
