"""Wait until a FIFO holds so many bytes, which stay in it.

Arguments: the FIFO, how many bytes. Exits with 1 when 40 s have passed.
"""
import fcntl
import os
import struct
import sys
import termios
import time

PATIENCE_SECONDS = 40


def holds(fifo):
    return struct.unpack("i", fcntl.ioctl(fifo, termios.FIONREAD, bytes(4)))[0]


def main():
    fifo = os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK)
    want = int(sys.argv[2])
    end = time.monotonic() + PATIENCE_SECONDS
    while holds(fifo) < want:
        if time.monotonic() > end:
            sys.exit(1)
        time.sleep(0.05)


main()
