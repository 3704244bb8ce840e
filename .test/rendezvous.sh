# rendezvous: two ends meet in a directory that no stranger can get at, and leave nothing there

refused() {                                         # NAME WANT: the rendezvous cannot be used, and it says WANT
    run $P recv k 1 0 "$tmp/x"
    is "$1: exit status" 1 "$status"
    has "$1: told" "$tmp/err" "$2"
}

rendezvous_slow() { # who waits for a peer wakes up rarely: some ten times in 2 s, once it has waited for a while
    bg S env PASH_PEER_TIMEOUT_MS=120000 $P send waits 0 1 /dev/null
    until_true test -f "$tmp/rdv/waits/N_0"
    for window in 1 2 3 4 5 6 7 8; do
        began=$(date +%s%3N)
        before=$(switches S)
        sleep 2
        woke=$(($(switches S) - before))
        took=$(($(date +%s%3N) - began))
        woke=$((woke * 2000 / took))                # Counting may take long itself.
        [ $woke -gt 16 ] || break
    done
    is "at last it woke $woke times in 2 s: 2 to 16" 1 $((woke >= 2 && woke <= 16))
}

rendezvous_registration() { # a registration is ours alone, whole, and gone after SIGTERM
    bg R $P recv 'a/b' 1 0 "$tmp/x"
    until_true test -f "$tmp/rdv/a%2Fb/N_1"
    is 'PATH is ours alone' 700 "$(stat -c %a "$tmp/rdv")"
    is 'so is the directory of the key' 700 "$(stat -c %a "$tmp/rdv/a%2Fb")"
    is 'a registration ends with its bracket' '}' "$(tail -c 1 "$tmp/rdv/a%2Fb/N_1")"
    until_true grep -q waiting "$tmp/R.err"
    has 'who waits says for what' "$tmp/R.err" "^pashlib: recv a/b: waiting for node 0 at dir:$tmp/rdv\$"
    kill "$(pid R)"
    ended R
    is 'ended by the signal' 143 "$status"
    left_nothing 'SIGTERM'
}

rendezvous_long_key() { # a key whose name would be too long for a directory is hashed
    key=$(printf 'k%0254d' 0 | tr 0 '/')
    hash=$(printf %s "$key" | sha256sum | cut -c 1-64)
    bg R $P recv "$key" 01 0 "$tmp/x"
    until_true test -f "$tmp/rdv/%-$hash/N_1"
    is 'a long key is hashed' 0 $?
    kill "$(pid R)"
    ended R
}

rendezvous_link() { # a PATH that is a link is refused, also with slashes behind it
    mkdir -m 700 "$tmp/other"
    ln -s "$tmp/other" "$tmp/rdv"
    refused 'PATH is a link' "rendezvous dir:$tmp/rdv: $tmp/rdv is not a directory"
    PASH_RENDEZVOUS=dir:$tmp/rdv///
    refused 'PATH is a link, with slashes' "rendezvous dir:.*: $tmp/rdv is not a directory"
}

rendezvous_path() { # a PATH that others could write, that is none or that cannot be made is refused
    mkdir -m 720 "$tmp/rdv"
    refused 'PATH can be written by others' 'can be written by others'
    rmdir "$tmp/rdv"
    echo >"$tmp/rdv"
    refused 'PATH is a file' 'is not a directory'
    PASH_RENDEZVOUS=dir:$tmp/no/such/place
    refused 'PATH cannot be made' "mkdir $tmp/no/such/place: No such file or directory"
}

rendezvous_owner() { # a PATH that belongs to another user is refused
    mkdir -m 700 "$tmp/rdv"
    if [ "$(id -u)" != 0 ] || ! chown 12345 "$tmp/rdv" 2>/dev/null; then
        skip 'PATH belongs to another' 'only root can give a directory away'
        return
    fi
    refused 'PATH belongs to another' 'belongs to another user'
}

rendezvous_key_directory() { # a directory of the key that is a link, or that others could write, is refused
    mkdir -m 700 "$tmp/other" "$tmp/rdv"
    ln -s "$tmp/other" "$tmp/rdv/k"
    refused 'the directory of the key is a link' "$tmp/rdv/k is not a directory"
    rm "$tmp/rdv/k"
    mkdir -m 702 "$tmp/rdv/k"
    refused 'the directory of the key can be written by others' 'can be written by others'
}

rendezvous_no_registration() { # what stands in a registration's place and is none counts as absent
    mkdir -m 700 "$tmp/rdv" "$tmp/rdv/k"
    place=$tmp/rdv/k/N_0
    for kind in fifo link big_file garbage directory; do
        case $kind in
        fifo) mkfifo "$place" ;;
        link)
            echo '{"local_addr":"127.0.0.1:9"}' >"$tmp/elsewhere"
            ln -s "$tmp/elsewhere" "$place"
            ;;
        big_file) printf '{"local_addr":"127.0.0.1:9","x":"%05000d"}' 0 >"$place" ;;
        garbage) head -c 300 /dev/urandom >"$place" ;;
        directory) mkdir "$place" ;;
        esac
        run env PASH_PEER_TIMEOUT_MS=300 $P recv k 1 0 "$tmp/x"
        is "$kind: exit status" 1 "$status"
        has "$kind: it counts as absent" "$tmp/err" "node 0 did not register at dir:$tmp/rdv within [0-9.]* s"
        rm -rf "$place"
    done
}

rendezvous_only_mine() { # a registration that somebody wrote over mine stays
    bg R $P recv k 1 0 "$tmp/x"
    until_true test -f "$tmp/rdv/k/N_1"
    echo '{"local_addr":"127.0.0.1:1"}' >"$tmp/rdv/k/N_1"
    kill "$(pid R)"
    ended R
    is 'only my own registration is withdrawn' '{"local_addr":"127.0.0.1:1"}' "$(cat "$tmp/rdv/k/N_1")"
}

rendezvous_race() { # ends that begin and end at once make and remove the directory of the key against each other
    for node in 1 2 3 4; do
        bg "race$node" sh -c 'for ms in $(seq 15); do
                PASH_PEER_TIMEOUT_MS=$((ms % 5 + 1)) "$0" recv race "$1" 9 /dev/null
                echo "$?" >&2
            done' $P $node
    done
    for node in 1 2 3 4; do
        ended race$node
        is "node $node: each time it says that nobody came" 15 "$(grep -c 'did not register' "$tmp/race$node.err")"
        is "node $node: each exit status is 1" 15 "$(grep -cx 1 "$tmp/race$node.err")"
    done
    left_nothing 'a directory that comes and goes'
}

rendezvous_removed() { # the directory of the key is removed, some thousand times a second, before a file is in it
    need 'a directory that is removed' python3 || return
    bg remover python3 -c '
import os, sys, time
while True:
    try:
        os.rmdir(sys.argv[1])
    except OSError:
        pass
    time.sleep(0.00005)
' "$tmp/rdv/k"
    failed=''
    for i in $(seq 50); do
        run env PASH_PEER_TIMEOUT_MS=2 $P recv k 1 0 /dev/null
        grep -q 'did not register' "$tmp/err" || failed="$failed $i: $(tail -n 1 "$tmp/err")"
    done
    is 'all 50 register' '' "$failed"
    stop remover
}
