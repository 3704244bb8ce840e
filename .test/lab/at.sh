#!/bin/sh
# at.sh NODE [SETTING...] COMMAND...: run it on the node's host in the laboratory, with STUN; see lab.sh.
node=$1
shift
exec ip netns exec "h$node" env -u PASH_NO_HOLEPUNCH -u PASH_PUBLIC_IP PASH_STUN_SERVER=203.0.113.1,203.0.113.2 "$@"
