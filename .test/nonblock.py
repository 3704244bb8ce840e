"""A stream whose standard input and standard output are pipes that do not block, at all their ends.

Argument: the program. Exits with 0 if all data comes through.

First the input is slow: the sender finds its pipe empty again and again. Then it is quick, and the output is read only
when the input takes no more: the receiver finds its pipe full.
"""
import os
import subprocess
import sys

SLOW_BYTES = 20
# More than two pipes (of 1 MiB, as pashlib makes them) and the connection between them hold.
QUICK_BYTES = 30000000


def pipe_without_blocking():
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def write_quickly(to, data, back):
    """Write DATA. Where there is no room, take what has come through at the other end, and return that."""
    got = bytearray()
    at = 0
    while at < len(data):
        try:
            at += os.write(to, data[at:at + 50000])
        except BlockingIOError:
            got += os.read(back, 4096)
    return got


def read_to_end(back):
    got = bytearray()
    while True:
        more = os.read(back, 100000)
        if not more:
            return got
        got += more


def main():
    program = sys.argv[1]
    source, to = pipe_without_blocking()
    back, target = pipe_without_blocking()
    sender = subprocess.Popen([program, "send", "k", "0", "1"], stdin=source)
    receiver = subprocess.Popen([program, "recv", "k", "1", "0"], stdout=target)
    os.close(source)
    os.close(target)
    # This end alone blocks: each end of a pipe has a setting of its own.
    os.set_blocking(back, True)
    for _ in range(SLOW_BYTES):
        os.write(to, b"s")
        assert os.read(back, 2) == b"s"
    data = b"q" * QUICK_BYTES
    got = write_quickly(to, data, back)
    os.close(to)
    got += read_to_end(back)
    assert got == data, len(got)
    assert sender.wait() == 0
    assert receiver.wait() == 0


main()
