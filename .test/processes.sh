# processes: signals, processes that are killed, and many streams in one process

# PID...: those of them that are alive.
alive() {
    for p in "$@"; do
        case $(ps -o stat= -p "$p") in
        '' | Z*) ;;
        *) echo "$p" ;;
        esac
    done
}
# COMMAND...: nothing comes of it.
nothing_from() { [ -z "$("$@")" ]; }
# The sender S has both processes of a stream: the stream's own, and that of its rendezvous.
has_both_processes() { [ "$(below "$(pid S)" | wc -l)" = 2 ]; }
# COMMAND...: start it as the sender S, which registers, and waits for its peer.
waiting_sender() {
    seq 1000 >"$tmp/in"
    bg S "$@"
    until_true test -f "$tmp/rdv/k/N_0"
    until_true has_both_processes
}
# Start S and R, between which 5 bytes have gone and more can follow. Descriptor 9 keeps the input from ending.
stream_under_way() {
    mkfifo "$tmp/fifo"
    bg S sh -c "exec $P send k 0 1 <$tmp/fifo"
    bg R "$P" recv k 1 0 "$tmp/got"
    exec 9<>"$tmp/fifo"
    echo data >&9
    until_true test -s "$tmp/got"
}

processes_sender_killed() { # a sender that is killed does not look like the end of the data
    stream_under_way
    kill -9 "$(pid S)"
    both 'exit statuses' '137 1'
    has 'the receiver says why' "$tmp/R.err" 'connection lost after 5 bytes: output is incomplete'
}
processes_receiver_killed() { # a receiver that is killed is noticed by the sender
    stream_under_way
    kill -9 "$(pid R)"
    both 'exit statuses' '1 137'
    has 'the sender says why' "$tmp/S.err" 'connection lost after 5 bytes: output is incomplete'
}

# SIGNAL STATUS: it ends a waiting sender, which leaves nothing.
ended_by() {
    # The tests may have been started by nohup or the like, and a shell cannot undo that.
    heeds=''
    if env --default-signal=HUP,TERM true 2>/dev/null; then heeds='env --default-signal=HUP,TERM'; fi
    waiting_sender $heeds "$P" send k 0 1 "$tmp/in"
    children=$(below "$(pid S)")
    is 'a stream has two processes beside the first' 2 "$(echo "$children" | wc -l)"
    kill "-$1" "$(pid S)"
    ended S
    left=$(alive $children)
    is 'the exit status is the signal' "$2" "$status"
    is 'no process is left' '' "$left"
    left_nothing "SIG$1"
}
processes_sigterm() { # SIGTERM ends it, with all its processes, and its registration is withdrawn
    ended_by TERM 143
}
processes_sighup() { # SIGHUP ends it, with all its processes, and its registration is withdrawn
    ended_by HUP 129
}
processes_sigpipe() { # SIGPIPE ends it, with all its processes, and its registration is withdrawn
    ended_by PIPE 141
}
processes_nohup() { # a SIGHUP that was ignored at the start stays ignored
    waiting_sender sh -c "trap '' HUP; exec $P send k 0 1 $tmp/in"
    for p in $(pid S) $(below "$(pid S)"); do
        awk '$1 == "SigIgn:" { print $2 ~ /[13579bdf]$/ }' "/proc/$p/status"
    done >"$tmp/ignores"
    is 'all three processes ignore SIGHUP' '1 1 1' "$(tr '\n' ' ' <"$tmp/ignores" | sed 's/ $//')"
    kill -HUP "$(pid S)"
    bg R "$P" recv k 1 0 "$tmp/got"
    both 'the stream is carried all the same' '0 0'
}
processes_sigkill() { # SIGKILL leaves no process
    # It would wait for its peer for longer than this case waits for it.
    waiting_sender env PASH_PEER_TIMEOUT_MS=300000 "$P" send k 0 1 "$tmp/in"
    children=$(below "$(pid S)")
    kill -9 "$(pid S)"
    ended S
    until_true nothing_from alive $children
    is 'no process is left' '0 ' "$? $(alive $children)"
}
processes_sigterm_while_carrying() { # once a receiver has ended by SIGTERM, nothing is written any more
    bg S "$P" send k 0 1 /dev/zero
    bg R "$P" recv k 1 0 "$tmp/got"
    until_true test -s "$tmp/got"
    children=$(below "$(pid R)")
    kill "$(pid R)"
    ended R
    left=$(alive $children)
    is 'the exit status is the signal' 143 "$status"
    is 'no process is left' '' "$left"
    ended S
    is 'the sender fails' 1 "$status"
}
# The id of the stream's own process of S: of its processes, the one that blocks no signal.
stream_process() {
    for p in $(below "$(pid S)"); do
        if grep -q '^SigBlk:[[:blank:]]*0*$' "/proc/$p/status"; then
            echo "$p"
            return
        fi
    done
    return 1
}
processes_stream_killed() { # a stream's process that is killed is a failure, and its registration is withdrawn
    waiting_sender "$P" send k 0 1 "$tmp/in"
    until_true stream_process
    kill -9 "$(stream_process)"
    ended S
    is 'the exit status' 1 "$status"
    has 'the log says why' "$tmp/S.err" '^pashlib: send k: its process ended by signal 9$'
    left_nothing 'killed'
}
processes_downstream_sees_the_end() { # nobody but a stream's own process holds its input and output
    mkfifo "$tmp/fifo"
    bg S sh -c "seq 3 | $P send*a*0*1*- send*b*0*1*$tmp/fifo"
    bg R sh -c "$P recv*a*1*0*- recv*b*1*0*$tmp/got | tail -n 1"
    until_true grep -q 3 "$tmp/R.out"
    is 'downstream sees the end while another stream goes on' 3 "$(cat "$tmp/R.out")"
    timeout 60 sh -c "echo x >$tmp/fifo"
    both 'the other stream ends, too' '0 0'
}

# COUNT: as many streams between S and R, every other one in the other direction, of different lengths.
many() {
    here='' there=''
    for i in $(seq "$1"); do
        seq $((i * 37)) >"$tmp/$i.in"
        if [ $((i % 2)) = 0 ]; then
            here="$here send*m$i*0*1*$tmp/$i.in"
            there="$there recv*m$i*1*0*$tmp/$i.got"
        else
            here="$here recv*m$i*0*1*$tmp/$i.got"
            there="$there send*m$i*1*0*$tmp/$i.in"
        fi
    done
    bg S env PASH_LOG=error PASH_PEER_TIMEOUT_MS=120000 PASH_CONNECT_TIMEOUT_MS=120000 "$P" $here
    bg R env PASH_LOG=error PASH_PEER_TIMEOUT_MS=120000 PASH_CONNECT_TIMEOUT_MS=120000 "$P" $there
    # A slow machine may need more than the 40 s that both() waits.
    deadline=$(($(date +%s) + 240))
    until [ -f "$tmp/S.rc" ] || [ "$(date +%s)" -gt $deadline ]; do sleep 0.1; done
    both 'exit statuses' '0 0'
    bad=''
    for i in $(seq "$1"); do cmp -s "$tmp/$i.in" "$tmp/$i.got" || bad="$bad $i"; done
    is 'the data of all streams' '' "$bad"
    is 'nothing is said at level error' '' "$(cat "$tmp/S.err" "$tmp/R.err")"
    left_nothing "$1 streams"
}
processes_32_streams() { # 32 streams, both ways
    many 32
}
processes_256_streams() { # 256 streams, both ways
    many 256
}
processes_few_descriptors() { # 256 streams start, though descriptors do not suffice to ask two STUN servers for each
    streams=$(seq 256 | sed 's/.*/recv*few&*0*1*x/')
    run sh -c 'ulimit -n 1024 && exec "$@"' sh env -u PASH_NO_HOLEPUNCH PASH_STUN_SERVER=127.0.0.1:9,127.0.0.1:10 \
        PASH_PEER_TIMEOUT_MS=1 "$P" $streams
    is 'all 256 streams have started' 256 "$(grep -c 'did not register' "$tmp/err")"
}
processes_one_fails() { # a stream that fails does not take the others along
    seq 1000 >"$tmp/in"
    bg S "$P" "send*good*0*1*$tmp/in" "send*bad*0*1*$tmp/none"
    bg R "$P" "recv*good*1*0*$tmp/got" "recv*bad*1*0*$tmp/got2"
    both 'exit statuses' '1 1'
    is 'the other is carried' "$(sha256sum <"$tmp/in")" "$(sha256sum <"$tmp/got")"
}
