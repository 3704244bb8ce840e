# shellcheck shell=sh
# The NAT laboratory: hosts behind boxes, and a server that all boxes reach. Each is a network namespace.
#
#     host hNAME              box nNAME                                server core
#     eth0 10.0.N.2 -------- 10.0.N.1 in   out 203.0.113.N -------- pNAME   203.0.113.1 and 203.0.113.2
#
# A host and its box are a node. What a box does to packets depends on its kind: box.nft is what all kinds have in
# common, and KIND.nft what this one adds. The server runs coturn, which answers STUN requests at both addresses, at
# port 3478 and at Google's port 19302. It also forwards packets between the boxes.
#
# A group that needs it reads this file, and calls lab in its GROUP_setup.

at='sh .test/lab/at.sh'                             # $at NODE [SETTING...] COMMAND...: run it on the node's host

lab() {                                             # NAME[:KIND[:LAG]]...: build it, with these nodes
    need 'the NAT laboratory' ip nft turnserver python3 || return 1
    if [ "${PASHLIB_NS-}" != root ]; then
        skip 'the NAT laboratory' 'it needs root'
        return 1
    fi
    # ip keeps the names of namespaces in /run/netns. This one is seen by this lane alone.
    if ! mkdir -p /run/netns || ! mount -t tmpfs tmpfs /run/netns; then
        skip 'the NAT laboratory' 'mount does not work here'
        return 1
    fi
    at_end 'umount -l /run/netns'
    if ! ip netns add core; then
        skip 'the NAT laboratory' 'ip netns add does not work here'
        return 1
    fi
    lab_server || return 1
    lab_number=10
    for lab_node in "$@"; do
        lab_number=$((lab_number + 1))
        lab_name=${lab_node%%:*}
        lab_kind=${lab_name%[0-9]}                  # without KIND, open1 and open2 are of the kind open
        lab_lag=''
        case $lab_node in
        *:*:*) lab_lag=${lab_node##*:} lab_node=${lab_node%:*} ;;
        esac
        case $lab_node in
        *:*) lab_kind=${lab_node#*:} ;;
        esac
        if ! lab_node "$lab_name" "$lab_kind" "$lab_number" "$lab_lag"; then
            fail "the NAT laboratory: node $lab_name"
            return 1
        fi
        echo "203.0.113.$lab_number" >"$shared/$lab_name.outside"
        echo "10.0.$lab_number" >"$shared/$lab_name.inside"
    done
}
lab_server() {                                      # the namespace core, with coturn
    ip -n core addr add 203.0.113.1/32 dev lo
    ip -n core addr add 203.0.113.2/32 dev lo
    ip -n core link set lo up
    on core sysctl -qw net.ipv4.ip_forward=1
    for lab_port in 3478 19302; do
        bg coturn$lab_port ip netns exec core turnserver -n --stun-only --no-cli --no-tls --no-dtls \
            -L 203.0.113.1 -L 203.0.113.2 -p $lab_port --no-stdout-log --log-file=/dev/null \
            --pidfile "$tmp/coturn$lab_port.pidfile"
    done
    for lab_port in 3478 19302; do
        if ! until_true lab_server_answers $lab_port; then
            fail "the NAT laboratory: coturn answers at port $lab_port"
            return 1
        fi
    done
}
lab_server_answers() {                              # PORT
    on core env -u PASH_NO_HOLEPUNCH -u PASH_PUBLIC_IP PASH_STUN_SERVER="203.0.113.1:$1,203.0.113.2:$1" \
        PASH_STUN_TIMEOUT_MS=500 $P addr | grep -q '^mapping='
}
lab_node() {                                        # NAME KIND N [LAG]: LAG is in ms, on the way to the server and back
    ip -batch - <<END || return 1
netns add h$1
netns add n$1
link add eth0 netns h$1 type veth peer name in netns n$1
END
    if [ -n "$4" ]; then
        bg "lag.$1" python3 .test/lab/lag.py "n$1" out core "p$1" "$4"
        until_true ip -n core link show "p$1" || return 1
    else
        ip link add out netns "n$1" type veth peer name "p$1" netns core || return 1
    fi
    ip -n "h$1" -batch - <<END || return 1
link set lo up
link set eth0 up
addr add 10.0.$3.2/24 dev eth0
route add default via 10.0.$3.1
END
    ip -n "n$1" -batch - <<END || return 1
link set lo up
link set in up
link set out up
addr add 10.0.$3.1/24 dev in
addr add 203.0.113.$3/32 dev out
route add 203.0.113.1 dev out
route add default via 203.0.113.1 dev out onlink
END
    ip -n core -batch - <<END || return 1
link set p$1 up
route add 203.0.113.$3 dev p$1
END
    on "n$1" sysctl -qw net.ipv4.ip_forward=1
    cat .test/lab/box.nft ".test/lab/$2.nft" >"$tmp/$1.nft"
    case $2 in
    udp | tcp)
        on "h$1" sysctl -qw net.ipv4.ip_local_port_range='50000 50999'
        seq 50000 50999 | sed 's/5\(.*\)/add element ip lab shifted { & : 4\1 }/' >>"$tmp/$1.nft"
        ;;
    esac
    on "n$1" nft -D "outside=203.0.113.$3" -D "host=10.0.$3.2" -f "$tmp/$1.nft"
}

# ---- what cases do with it ----

on() {                                              # NAMESPACE COMMAND...
    on_namespace=$1
    shift
    ip netns exec "$on_namespace" "$@"
}
outside() { cat "$shared/$1.outside"; }             # NODE: the address that it has outside its box
inside() { cat "$shared/$1.inside"; }               # NODE: the first three bytes of the addresses inside its box
sever() { on "n$1" nft add rule ip lab cut drop; }  # NODE: nothing passes its box, until ...
mend() { on "n$1" nft flush chain ip lab cut; }     # NODE: ... this

# Carry a word between A and B, RUNS times. $tmp/A.B gets a line for each time: both exit statuses, how many
# milliseconds after the start of the later end the last one ended, and "same" if the word arrived as it is.
meet() {                                            # RUNS A B [SETTING...]
    runs=$1
    a=$2
    b=$3
    shift 3
    echo word >"$tmp/word"
    for n in $(seq "$runs"); do
        # Each of them is the later one in turn, and has the lower number in turn.
        me=$((1 + n / 2 % 2))
        peer=$((3 - me))
        if [ $((n % 2)) = 0 ]; then
            meet_once "$a.$b.$n" "$a" "$b" "$@"
        else
            meet_once "$a.$b.$n" "$b" "$a" "$@"
        fi
    done >"$tmp/$a.$b" 2>"$tmp/$a.$b.err"
}
meet_once() {                                       # KEY EARLY LATE [SETTING...]: print the line
    key=$1
    early=$2
    late=$3
    shift 3
    $at "$early" "$@" $P send "$key" $me $peer "$tmp/word" 2>"$tmp/$key.early" &
    until_true test -f "$tmp/rdv/$key/N_$me"
    began=$(date +%s%3N)
    $at "$late" "$@" $P recv "$key" $peer $me "$tmp/$key.out" 2>"$tmp/$key.late"
    received=$?
    wait $!
    sent=$?
    ms=$(($(date +%s%3N) - began))
    same=$(cmp "$tmp/word" "$tmp/$key.out" >&2 && echo same)
    echo "$sent $received $ms $same"
}
have_met() { grep -c '^0 0 [0-9]* same$' "$tmp/$1.$2"; } # A B: how often they did

# On a busy machine they may take longer: as many seconds as there are processes that want each CPU.
joins() {                                           # RUNS A B [SETTING...]: they meet each time, within a second
    meet "$@"
    good=$(have_met "$a" "$b")
    median=$(sort -n -k 3 "$tmp/$a.$b" | awk '{ ms[NR] = $3 } END { print ms[int((NR + 1) / 2)] }')
    slowest=$(sort -n -k 3 "$tmp/$a.$b" | awk 'END { print $3 }')
    most=$(awk -v cpus="$(nproc)" '{ each = int($1 / cpus); print (each > 1 ? each : 1) * 1000 }' /proc/loadavg)
    is "$a with $b: $runs runs of $runs" "$runs" "$good"
    at_most "$a with $b: within $most ms of the start of the later one" "$most" "$slowest"
    echo "    $a with $b: $good of $runs, median $median ms, slowest $slowest ms"
}
