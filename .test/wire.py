"""The wire formats of pashlib, for fake peers: written from README alone (WIRE FORMATS), never from pashlib.c.

What comes from the other end is checked against README; what does not hold raises an AssertionError, and a
connection that ends too early an EOFError.

Node numbers are integers; a hello, a proof and a frame are bytes. KEY is a text of letters and digits, which stands for
itself in the rendezvous directory and in the proof.
"""
import hashlib
import hmac
import json
import os
import struct

SEND = 1
RECV = 2
HELLO_SIZE = 36
PROOF_SIZE = 32
FRAME_MAX = 1 << 20
READER_GONE = 2 ** 64 - 1
STILL_ALIVE = 2 ** 64 - 2


# ---- rendezvous: a directory ----

def register(directory, key, node, local, external):
    """Register NODE under KEY with its two addresses, texts like 127.0.0.1:4000, in one step."""
    os.makedirs(directory, 0o700, exist_ok=True)
    of_key = os.path.join(directory, key)
    os.makedirs(of_key, 0o700, exist_ok=True)
    # What README does not name may stand in the text, and must be passed over.
    text = json.dumps({"x": [1, {"y": None}], "external_addr": external, "local_addr": local}, indent=1)
    beside = os.path.join(of_key, "new.%d" % os.getpid())
    with open(beside, "w") as new:
        new.write(text)
    os.rename(beside, os.path.join(of_key, "N_%d" % node))


def registered_port(directory, key, node):
    """The port of the local address that NODE has registered under KEY."""
    with open(os.path.join(directory, key, "N_%d" % node)) as registration:
        local = json.load(registration)["local_addr"]
    return int(local.rsplit(":", 1)[1])


# ---- hello: what both ends say before the frames ----

def hello(role, me, peer):
    return b"PASHLIB1" + struct.pack("!B3xII", role, me, peer) + os.urandom(16)


def check_hello(text, me, peer):
    """TEXT is the hello of node PEER, which wants node ME. Returns its role."""
    assert text[:8] == b"PASHLIB1", text
    assert text[8] in (SEND, RECV), text
    assert text[9:12] == bytes(3), text
    assert text[12:20] == struct.pack("!II", peer, me), text
    return text[8]


def proof(key, own, other):
    """The proof of the end that has said the hello OWN, and has heard the hello OTHER."""
    return hmac.new(key.encode(), b"pashlib proof" + own + other, hashlib.sha256).digest()


def choose(connection, me, peer):
    """Agree on this proven connection. The lower node gets what it has to say first, with or before anything else;
    the other one waits for that, and has nothing to say."""
    if me < peer:
        return b"G"
    assert take(connection, 1) == b"G"
    return b""


# ---- frames ----

def frame(data):
    return struct.pack("!I", len(data)) + data


def end(total):
    """What the sender writes at the end of its input."""
    return struct.pack("!IQ", 0, total)


def answer(total):
    """What the receiver writes: how many bytes it has, READER_GONE or STILL_ALIVE."""
    return struct.pack("!Q", total)


# ---- reading ----

def take(connection, size):
    """The next SIZE bytes."""
    text = b""
    while len(text) < size:
        more = connection.recv(size - len(text))
        if not more:
            raise EOFError("the other end closed after %d of %d bytes" % (len(text), size))
        text += more
    return text


def take_length(connection):
    """The length of the next frame; 0: there is none, and the total follows."""
    length = struct.unpack("!I", take(connection, 4))[0]
    assert length <= FRAME_MAX, length
    return length


def take_total(connection):
    """A total, from the sender or from the receiver."""
    return struct.unpack("!Q", take(connection, 8))[0]


def take_end(connection):
    """The other end closes, and says nothing before."""
    more = connection.recv(1)
    assert more == b"", more
