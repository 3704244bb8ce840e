"""A command whose standard output is a terminal that shows nothing for 65 s.

Arguments: the words of the command.
The program then reads all that the command has written, prints how many bytes that were, and exits as the command did.
"""
import os
import pty
import subprocess
import sys
import time
import tty

STALL_SECONDS = 65


def count(terminal):
    """Read until the other side of the terminal is closed, and say how many bytes came."""
    total = 0
    while True:
        try:
            more = os.read(terminal, 65536)
        except OSError:                                 # Linux says EIO where the other side is closed
            return total
        if not more:
            return total
        total += len(more)


def main():
    terminal, inside = pty.openpty()
    tty.setraw(inside)
    command = subprocess.Popen(sys.argv[1:], stdout=inside)
    os.close(inside)
    time.sleep(STALL_SECONDS)
    print(count(terminal))
    sys.exit(command.wait())


main()
