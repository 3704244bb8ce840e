"""A peer that does what README says, or breaks it in one way.

Arguments: the rendezvous directory, KEY, its own node number, the other's, MODE.

MODE, where it never gets as far as the data:
  register         it takes connections and says nothing
  badmagic         its hello begins with other letters
  badrole          its hello has a role that is none
  badzero          its hello has a one where zeros belong
  badnode          its hello names another node
  badproof         its proof is wrong
MODE, where it receives; it prints the SHA-256 of what it has, and how many bytes that are:
  recv             it does all as README says
  recv-wrong       it answers with one byte more than it has
  recv-cut         it ends in the middle
  recv-gone        it says that its reader went away
  recv-early       it answers after the first frame
  recv-nogo        it is the lower node, and says something else than G
MODE, where it sends; it prints the answer, which may be "gone", or else "no answer", and exits with 1:
  send             it does all as README says, in three frames
  send-trickle     the same, a byte at a time
  send-max         one frame of the largest size
  send-crowded     it registers nowhere, but connects; after its hello, 40 strangers connect, too
  send-big         a frame that is larger than the largest
  send-total       its total is one byte more than the data
  send-cutframe    it ends in a frame
  send-noend       it ends after the frames
  send-cutend      it ends in the total
"""
import hashlib
import os
import socket
import sys
import time

import wire

HOLD_SECONDS = 60
STRANGERS = 40
DATA = bytes(range(256)) * 9
held = []


def change(text, at, byte):
    return text[:at] + byte + text[at + 1:]


BAD_HELLO = {
    "badmagic": lambda hello: change(hello, 0, b"X"),
    "badrole": lambda hello: change(hello, 8, b"\3"),
    "badzero": lambda hello: change(hello, 9, b"\1"),
    "badnode": lambda hello: change(hello, 15, bytes([hello[15] + 7])),
    "badproof": lambda hello: hello,
}


class Peer:
    """One end of a stream."""

    def __init__(self, directory, key, me, peer, mode):
        self.directory = directory
        self.key = key
        self.me = me
        self.peer = peer
        self.mode = mode
        self.role = wire.SEND if mode.startswith("send") else wire.RECV

    def register(self):
        """Listen, and register where."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        listener.settimeout(30)
        address = "127.0.0.1:%d" % listener.getsockname()[1]
        wire.register(self.directory, self.key, self.me, address, address)
        return listener

    def connect(self):
        """A connection to the other end, which comes to us, or we to it."""
        if self.mode == "send-crowded":
            port = wire.registered_port(self.directory, self.key, self.peer)
            connection = socket.create_connection(("127.0.0.1", port))
        else:
            held.append(self.register())
            connection = held[-1].accept()[0]
        connection.settimeout(30)
        return connection

    def say_badly(self, connection):
        """Say a hello or a proof that is wrong, to its end, and close."""
        hello = BAD_HELLO[self.mode](wire.hello(self.role, self.me, self.peer))
        try:
            connection.sendall(hello)
            theirs = wire.take(connection, wire.HELLO_SIZE)
            if self.mode == "badproof":
                connection.sendall(bytes(wire.PROOF_SIZE))
            else:
                connection.sendall(wire.proof(self.key, hello, theirs))
            wire.take(connection, wire.PROOF_SIZE)
        except (EOFError, OSError):
            pass
        connection.close()

    def shake(self, connection):
        """Both say hello and prove it, up to the point where one connection is chosen."""
        hello = wire.hello(self.role, self.me, self.peer)
        connection.sendall(hello)
        theirs = wire.take(connection, wire.HELLO_SIZE)
        if self.mode == "send-crowded":
            let_strangers_in(connection.getpeername())
        role = wire.check_hello(theirs, self.me, self.peer)
        assert role == wire.SEND + wire.RECV - self.role, role
        connection.sendall(wire.proof(self.key, hello, theirs))
        assert wire.take(connection, wire.PROOF_SIZE) == wire.proof(self.key, theirs, hello), "its proof is wrong"


def let_strangers_in(address):
    """Connect many times. The other end says hello to each as soon as it knows of it, or closes it."""
    for _ in range(STRANGERS):
        stranger = socket.create_connection(address)
        stranger.settimeout(30)
        held.append(stranger)
        try:
            stranger.recv(wire.HELLO_SIZE)
        except ConnectionResetError:
            pass


def receive(connection, mode):
    """Take frames, and give the answer that MODE says. Returns the data."""
    data = b""
    while True:
        length = wire.take_length(connection)
        if mode == "recv-cut":
            # Without closing anything in order: what has come and was not read makes this a reset.
            os._exit(0)
        if mode == "recv-gone" or length == 0:
            break
        data += wire.take(connection, length)
        if mode == "recv-early":
            break
    if mode == "recv":
        assert wire.take_total(connection) == len(data)
        connection.sendall(wire.answer(wire.STILL_ALIVE))
    answer = len(data)
    if mode == "recv-wrong":
        answer += 1
    if mode == "recv-gone":
        answer = wire.READER_GONE
    for byte in wire.answer(answer):
        connection.sendall(bytes([byte]))
        time.sleep(0.01)
    if mode == "recv":
        wire.take_end(connection)
    return data


def frames_and_end(mode):
    """All that a sender says once a connection is chosen."""
    frames = wire.frame(DATA[:1]) + wire.frame(DATA[1:1000]) + wire.frame(DATA[1000:])
    end = wire.end(len(DATA))
    if mode == "send-max":
        data = b"z" * wire.FRAME_MAX
        return wire.frame(data) + wire.end(len(data))
    if mode == "send-big":
        return frames + wire.frame(b"z" * (wire.FRAME_MAX + 1))[:5]
    if mode == "send-total":
        return frames + wire.end(len(DATA) + 1)
    if mode == "send-cutframe":
        return wire.frame(DATA)[:-5]
    if mode == "send-noend":
        return frames
    if mode == "send-cutend":
        return frames + end[:-1]
    return frames + end


def send(connection, go, mode):
    """Send GO and what MODE says, in one piece. Returns the answer as it is to be printed; None: there is none."""
    text = go + frames_and_end(mode)
    if mode == "send-trickle":
        for byte in text:
            connection.sendall(bytes([byte]))
    else:
        connection.sendall(text)
    if mode in ("send-cutframe", "send-noend", "send-cutend"):
        connection.close()
        return None
    try:
        answer = wire.take_total(connection)
        connection.shutdown(socket.SHUT_WR)
        wire.take_end(connection)
    except (EOFError, ConnectionResetError):
        return None
    return "gone" if answer == wire.READER_GONE else str(answer)


def main():
    mode = sys.argv[5]
    peer = Peer(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), mode)
    if mode == "register":
        held.append(peer.register())
        time.sleep(HOLD_SECONDS)
        return
    connection = peer.connect()
    if mode in BAD_HELLO:
        peer.say_badly(connection)
        time.sleep(HOLD_SECONDS)
        return
    peer.shake(connection)
    if mode == "recv-nogo":
        connection.sendall(b"N")
        time.sleep(HOLD_SECONDS)
        return
    go = wire.choose(connection, peer.me, peer.peer)
    if peer.role == wire.SEND:
        answer = send(connection, go, mode)
        print("no answer" if answer is None else answer)
        sys.exit(answer is None)
    connection.sendall(go)
    data = receive(connection, mode)
    print(hashlib.sha256(data).hexdigest(), len(data))


main()
