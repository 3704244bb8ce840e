#!/bin/sh
# at.sh NODE [SETTING...] COMMAND...: run it on the node's host in the laboratory, with STUN; see lab.sh.
node=$1
shift
unset PASH_NO_HOLEPUNCH PASH_PUBLIC_IP
export PASH_STUN_SERVER=203.0.113.1,203.0.113.2
for word in "$@"; do
    case $word in
    [A-Z]*=*) export "${word?}" ;;
    *) break ;;
    esac
    shift
done
exec ip netns exec "h$node" "$@"
