"""The benchmark: which cases there are, and what they print. bench.sh builds what they need and calls this.

bench.py SCRATCH ROUNDS MIB [CASE...]
    SCRATCH     a directory with load, empty and the builds of pashlib
    ROUNDS      how often each program is measured; medians are printed
    MIB         how much data one measurement carries, in MiB; some cases take a part of it
    CASE        a part of the name of a case: those alone are run
"""
import signal
import sys

import rest
import streams
from lab import MIB, WHOLE_MTU, Lab

# The CPUs of the sender's and the receiver's side.
SINGLE = ("0", "0")
SIDES = ("0", "1")

SOCATS = ["socat262144", "socat1048576"]


def cases(mib):
    """All cases that carry streams, in order; a measurement carries MIB or a part of it."""
    whole = mib * MIB
    nc = ["nc", "pashlib"]
    bare = ["nc", "bare", "pashlib"]
    portable = ["nc", "pashlib-portable"]
    block = 131072
    case = streams.Case
    return [
        case("128 KiB writes, single", bare + SOCATS, 1, block, whole, SINGLE, WHOLE_MTU,
             "CPU 0.20 (1.25 of bare), GiB/s 2.3 (1.7 of socat)"),
        case("128 KiB writes, sides", bare, 1, block, whole, SIDES, WHOLE_MTU, "CPU 0.30, GiB/s 1.8"),
        case("8 streams", nc, 8, block, whole // 4, SINGLE, WHOLE_MTU, "CPU 0.22, GiB/s 2.0"),
        case("32 streams", nc, 32, block, whole // 16, SINGLE, WHOLE_MTU, "CPU 0.22, GiB/s 2.0"),
        case("100-byte writes, single", nc, 1, 100, whole // 8, SINGLE, WHOLE_MTU, "CPU 0.35, GiB/s 1.3"),
        case("100-byte writes, sides", nc, 1, 100, whole // 8, SIDES, WHOLE_MTU, "CPU 0.30, GiB/s 1.5"),
        case("4 KiB writes, single", nc, 1, 4096, whole, SINGLE, WHOLE_MTU, "CPU 0.28, GiB/s 2.0"),
        case("4 KiB writes, sides", nc, 1, 4096, whole, SIDES, WHOLE_MTU, "CPU 0.55, GiB/s 1.0"),
        case("MTU 9001, single", nc, 1, block, whole, SINGLE, 9001, "CPU 0.40, GiB/s 1.8"),
        case("MTU 9001, sides", nc, 1, block, whole, SIDES, 9001, "CPU 0.50, GiB/s 1.4"),
        case("MTU 1500, single", nc, 1, block, whole, SINGLE, 1500, "CPU 0.80, GiB/s 1.1"),
        case("MTU 1500, sides", nc, 1, block, whole, SIDES, 1500, "CPU 0.65, GiB/s 1.1"),
        case("portable, single", portable, 1, block, whole, SINGLE, WHOLE_MTU, "CPU 0.65, GiB/s 1.4"),
        case("portable, sides", portable, 1, block, whole, SIDES, WHOLE_MTU, "CPU 0.65, GiB/s 1.4"),
    ]


def wanted(name, parts):
    """Whether the command line asks for the case of this name."""
    return not parts or any(part in name for part in parts)


def main():
    """Run the cases that the command line asks for."""
    sys.stdout.reconfigure(line_buffering=True)
    # What was started is killed then, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    scratch = sys.argv[1]
    rounds = int(sys.argv[2])
    mib = int(sys.argv[3])
    parts = sys.argv[4:]
    all_cases = cases(mib)
    names = [case.name for case in all_cases] + [rest.NAME]
    for part in parts:
        if not any(part in name for name in names):
            sys.exit("bench: no case has \"%s\" in its name; there are: %s" % (part, "; ".join(names)))
    lab = Lab(scratch, rounds, mib)
    for case in all_cases:
        if wanted(case.name, parts):
            streams.run_case(lab, case)
    if wanted(rest.NAME, parts):
        rest.run(lab)


if __name__ == "__main__":
    main()
