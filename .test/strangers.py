"""Connections to a port from strangers, who hold them for a minute, or until they are killed.

Arguments: the port, and how many connections
  1. say nothing,
  2. say something else,
  3. say what node 0 would say to node 1, for which no key is needed, hear what comes back, and say no more.
It prints "held" when all of them stand.
"""
import os
import socket
import sys
import time

import wire


def mirror(connection):
    """Say hello, and hear what comes back, if the connection is not closed for that."""
    try:
        connection.sendall(wire.hello(wire.SEND, 0, 1))
        connection.recv(wire.HELLO_SIZE)
    except ConnectionResetError:
        pass


def main():
    port = int(sys.argv[1])
    quiet = int(sys.argv[2])
    loud = int(sys.argv[3])
    mirrors = int(sys.argv[4])
    held = []
    for number in range(quiet + loud + mirrors):
        connection = socket.create_connection(("127.0.0.1", port))
        held.append(connection)
        if number < quiet:
            continue
        if number >= quiet + loud:
            mirror(connection)
        elif number % 2:
            connection.sendall(os.urandom(100))
        else:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
    print("held", flush=True)
    time.sleep(60)


main()
