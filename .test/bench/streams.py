"""How much CPU time it takes to carry data from FIFO to FIFO, and how much is carried in a second.

CPU time is that of the programs at both ends, user and system, and not that of the producers and consumers of the
data. Each case prints a table with a row a kind of program.
"""
import collections
import os
import statistics
import subprocess
import sys
import time

from lab import LONGEST, wait_until_listening

# name      what it is called
# kinds     the programs: see lab.py
# streams   how many there are, at once
# size      bytes a write
# total     bytes a stream
# cpus      the CPU of the producers and senders, and that of the receivers and consumers
# mtu       of the loopback interface
# wanted    what was aimed at, as a share of nc's figures
Case = collections.namedtuple("Case", "name kinds streams size total cpus mtu wanted")


def start_pashlib(lab, kind, cpus, ins, outs):
    """Start one sender and one receiver for all streams."""
    lab.forget_registrations()
    receiver = [lab.binary(kind)]
    receiver += ["recv*k%d*2*1*%s" % (i, path) for i, path in enumerate(outs)]
    sender = [lab.binary(kind)]
    sender += ["send*k%d*1*2*%s" % (i, path) for i, path in enumerate(ins)]
    return [lab.start(cpus[1], receiver), lab.start(cpus[0], sender)]


def receiver_command(lab, kind, port, path):
    """The shell command that listens on a port and writes what comes into a FIFO."""
    if kind == "nc":
        return "exec nc -l 127.0.0.1 %d >%s" % (port, path)
    if kind == "bare":
        return "exec %s recv %d %s" % (lab.load, port, path)
    buffer = kind[len("socat"):]
    return "exec socat -u -b %s TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr STDOUT >%s" % (buffer, port, path)


def sender_command(lab, kind, port, path):
    """The shell command that sends what comes out of a FIFO to a port."""
    if kind == "nc":
        return "exec nc -N 127.0.0.1 %d <%s" % (port, path)
    if kind == "bare":
        return "exec %s send %d %s" % (lab.load, port, path)
    buffer = kind[len("socat"):]
    return "exec socat -u -b %s STDIN TCP:127.0.0.1:%d <%s" % (buffer, port, path)


def start_pairs(lab, kind, cpus, ins, outs):
    """Start a sender and a receiver for each stream.

    A shell opens the FIFO before its program listens, so nothing listens before the FIFO has its other end.
    """
    port = lab.ports(len(ins))
    movers = []
    for i, path in enumerate(outs):
        movers.append(lab.start_shell(cpus[1], receiver_command(lab, kind, port + i, path)))
    for i, path in enumerate(ins):
        wait_until_listening(port + i)
        movers.append(lab.start_shell(cpus[0], sender_command(lab, kind, port + i, path)))
    return movers


def check_alive(kind, movers):
    """End the benchmark where a program that carries data has failed. Nothing is reaped: cpu_time does that."""
    for process in movers:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended and ended.si_status:
            sys.exit("bench: %s ended with %d: %s" % (kind, ended.si_status, " ".join(process.args)))


def time_said(kind, process, movers):
    """Wait for a producer or consumer; the time that it has printed, in ns."""
    said = None
    deadline = time.monotonic() + LONGEST
    while said is None:
        try:
            said = process.communicate(timeout=2)[0]
        except subprocess.TimeoutExpired:
            check_alive(kind, movers)
            if time.monotonic() > deadline:
                sys.exit("bench: %s: no end after %d s: %s" % (kind, LONGEST, " ".join(process.args)))
    if process.returncode:
        sys.exit("bench: %s: exit status %d: %s" % (kind, process.returncode, " ".join(process.args)))
    return int(said)


def cpu_time(kind, process):
    """Wait for a program that carries data; its CPU time in s."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        print("# %s ended with %d" % (kind, status))
    return usage.ru_utime + usage.ru_stime


def carry(lab, kind, case):
    """Carry the data of a case once; CPU s/GiB and GiB/s."""
    total = case.total // case.size * case.size
    ins = [lab.fifo("i%d" % i) for i in range(case.streams)]
    outs = [lab.fifo("o%d" % i) for i in range(case.streams)]
    consumers = []
    for path in outs:
        argv = [lab.load, "consume", str(total), path]
        consumers.append(lab.start(case.cpus[1], argv, stdout=subprocess.PIPE, stderr=None))
    if kind.startswith(tuple(lab.versions)):
        movers = start_pashlib(lab, kind, case.cpus, ins, outs)
    else:
        movers = start_pairs(lab, kind, case.cpus, ins, outs)
    producers = []
    for path in ins:
        argv = [lab.load, "produce", str(total), str(case.size), path]
        producers.append(lab.start(case.cpus[0], argv, stdout=subprocess.PIPE, stderr=None))
    began = min([time_said(kind, p, movers) for p in producers])
    ended = max([time_said(kind, p, movers) for p in consumers])
    cpu = sum([cpu_time(kind, p) for p in movers])
    gib = total * case.streams / 2**30
    return cpu / gib, gib / ((ended - began) / 1e9)


def compared(name, cpu, speed, kind, base):
    """The end of a row: what the medians of a kind are as shares of those of another."""
    cpu_share = statistics.median(cpu[kind]) / statistics.median(cpu[base])
    speed_share = statistics.median(speed[kind]) / statistics.median(speed[base])
    return "   of %s: CPU %.2f  GiB/s %.2f" % (name, cpu_share, speed_share)


def run_case(lab, case):
    """Measure the programs of a case in interleaved rounds, and print the table."""
    lab.set_mtu(case.mtu)
    kinds = lab.available(case.kinds)
    cpu = {kind: [] for kind in kinds}
    speed = {kind: [] for kind in kinds}
    for kind in lab.interleaved(kinds):
        took, carried = carry(lab, kind, case)
        cpu[kind].append(took)
        speed[kind].append(carried)
    print("\n%s" % case.name)
    for kind in kinds:
        row = "  %-18s %6.3f CPU s/GiB %6.2f GiB/s (%4.2f to %4.2f)" % (
            kind, statistics.median(cpu[kind]), statistics.median(speed[kind]), min(speed[kind]), max(speed[kind]))
        if "nc" in kinds:
            row += compared("nc", cpu, speed, kind, "nc")
        if kind.startswith("other"):
            row += compared("pashlib", cpu, speed, kind, kind.replace("other", "pashlib"))
        print(row)
    print("  wanted: " + case.wanted)
