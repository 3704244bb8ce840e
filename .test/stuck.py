"""A command whose standard error is a pipe that is full, and that nobody reads.

Arguments: the words of the command. Prints its exit status and how many seconds it took.
"""
import os
import subprocess
import sys
import time


def fill(pipe):
    """Fill PIPE to the last byte."""
    os.set_blocking(pipe, False)
    for size in (65536, 1):
        try:
            while True:
                os.write(pipe, b"x" * size)
        except BlockingIOError:
            pass
    os.set_blocking(pipe, True)


def main():
    # The end that could be read stays open, lest writing become an error.
    _, full = os.pipe()
    fill(full)
    began = time.monotonic()
    status = subprocess.call(sys.argv[1:], stderr=full)
    print(status, int(time.monotonic() - began))


main()
