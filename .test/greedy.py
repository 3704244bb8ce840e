"""A peer that knows the key, and abuses it: node 0, for a receiver that is node 1.

Arguments: the rendezvous directory, KEY, the port of the receiver.

It registers, makes 45 connections and proves each, but chooses none; then it registers four times more, each time at
three new addresses, where it accepts connections and says nothing. It exits with 0 when the receiver has come to all
fifteen addresses: the connections that are held have not kept it from trying them.
"""
import socket
import sys

import wire

CONNECTIONS = 45
REGISTRATIONS = 5
held = []


def listen(ip, port=0):
    listener = socket.socket()
    listener.bind((ip, port))
    listener.listen(50)
    listener.settimeout(20)
    held.append(listener)
    return listener


def register_and_wait(directory, key):
    """Register at new addresses; the third is the external IP with the local port, which README names, too."""
    local = listen("127.0.0.1")
    external = listen("127.0.0.2")
    local_port = local.getsockname()[1]
    third = listen("127.0.0.2", local_port)
    wire.register(directory, key, 0, "127.0.0.1:%d" % local_port, "127.0.0.2:%d" % external.getsockname()[1])
    for listener in (local, external, third):
        held.append(listener.accept()[0])


def prove(key, port):
    """Make a connection and say all but that it is the chosen one. Returns if that was heard out."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(5)
    held.append(connection)
    hello = wire.hello(wire.SEND, 0, 1)
    try:
        connection.sendall(hello)
        theirs = wire.take(connection, wire.HELLO_SIZE)
        connection.sendall(wire.proof(key, hello, theirs))
    except (EOFError, OSError):
        return False
    return True


def main():
    directory = sys.argv[1]
    key = sys.argv[2]
    port = int(sys.argv[3])
    register_and_wait(directory, key)
    for _ in range(CONNECTIONS):
        if not prove(key, port):
            break
    for _ in range(REGISTRATIONS - 1):
        register_and_wait(directory, key)


main()
