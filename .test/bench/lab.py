"""What all measurements share: the scratch directory, the builds of pashlib, processes, FIFOs and ports.

A *kind* is a program that carries data, by the name that the tables give it:
    pashlib, other                      this pashlib.c, and that of BENCH_OTHER
    pashlib-portable, other-portable    the same, built without splice()
    nc                                  OpenBSD's netcat
    socatN                              socat with a buffer of N bytes
    bare                                load send and load recv: the least that frames and splices
"""
import atexit
import os
import shutil
import subprocess
import sys
import time

MIB = 2**20

# No measurement takes nearly as long, in seconds: what does, hangs.
LONGEST = 600

# That of the loopback interface, as it is at first.
WHOLE_MTU = 65536

FIRST_PORT = 20000
LAST_PORT = 29999


class Lab:
    """The place where everything is measured.

    scratch is a directory with load, empty, and for each version of pashlib, pashlib and perhaps other, a directory
    of its builds (see bench_build in bench.sh).
    """

    def __init__(self, scratch, rounds, mib):
        self.scratch = scratch
        self.rounds = rounds
        self.mib = mib
        self.load = os.path.join(scratch, "load")
        self.versions = ["pashlib"]
        if os.path.isdir(os.path.join(scratch, "other")):
            self.versions.append("other")
        self.next_port = FIRST_PORT
        self.processes = []
        atexit.register(self.kill_all)

    # ---- programs ----

    def file(self, name):
        """The path of a file in the scratch directory."""
        return os.path.join(self.scratch, name)

    def binary(self, kind, build="pashlib"):
        """The program of a kind, which is a version, or a version, a hyphen and a build."""
        version, _, kind_build = kind.partition("-")
        return os.path.join(self.scratch, version, kind_build or build)

    def available(self, kinds):
        """Those of the kinds that are there; pashlib stands for all its versions."""
        there = []
        for kind in kinds:
            if kind.startswith("pashlib"):
                there += [kind.replace("pashlib", version) for version in self.versions]
            elif kind == "bare":
                there.append(kind)
            elif kind == "nc" and has_nc():
                there.append(kind)
            elif kind.startswith("socat") and shutil.which("socat"):
                there.append(kind)
        return there

    def interleaved(self, kinds, rounds=None):
        """Each kind once a round, backwards and forwards in turn, so that none is always the first."""
        for r in range(rounds or self.rounds):
            yield from kinds if r % 2 else kinds[::-1]

    # ---- processes ----

    def start(self, cpu, argv, **options):
        """Start a program on one CPU; its standard error is dropped, if the options say nothing else."""
        options.setdefault("stderr", subprocess.DEVNULL)
        return self.start_anywhere(pinned(cpu, argv), **options)

    def start_anywhere(self, argv, **options):
        """Start a program; it is killed at the end, should it still run."""
        process = subprocess.Popen(argv, **options)
        self.processes = [p for p in self.processes if p.returncode is None]
        self.processes.append(process)
        return process

    def start_shell(self, cpu, command):
        """Start a shell command on one CPU."""
        return self.start(cpu, ["sh", "-c", command])

    def kill_all(self):
        """Kill what was started and still runs."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    # ---- files, ports, the network ----

    def fifo(self, name):
        """Make a new FIFO in the scratch directory; its path."""
        path = self.file(name)
        if os.path.exists(path):
            os.unlink(path)
        os.mkfifo(path)
        return path

    def forget_registrations(self):
        """Empty the rendezvous directory."""
        shutil.rmtree(self.file("rdv"), ignore_errors=True)

    def ports(self, count):
        """The first of COUNT successive ports that were not used lately."""
        if self.next_port + count > LAST_PORT:
            self.next_port = FIRST_PORT
        port = self.next_port
        self.next_port += count
        return port

    def set_mtu(self, mtu):
        """Set how large a packet may be on the loopback interface."""
        subprocess.check_call(["ip", "link", "set", "lo", "mtu", str(mtu)])


def has_nc():
    """Whether there is OpenBSD's netcat: others have no -N, which ends the connection at the end of the input."""
    if not shutil.which("nc"):
        return False
    said = subprocess.run(["nc", "-h"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return b"Shutdown the network socket" in said.stdout


def pinned(cpu, argv):
    """The command that runs a command on one CPU."""
    return ["taskset", "-c", cpu] + argv


def listens(port):
    """Whether a TCP socket of IPv4 listens on the port. 0A is the kernel's word for listening."""
    with open("/proc/net/tcp") as table:
        lines = table.readlines()[1:]
    for line in lines:
        fields = line.split()
        if fields[3] == "0A" and fields[1].endswith(":%04X" % port):
            return True
    return False


def wait_until_listening(port):
    """Wait until something listens on the port."""
    deadline = time.monotonic() + 40
    while not listens(port):
        if time.monotonic() > deadline:
            sys.exit("bench: nothing listens on port %d after 40 s" % port)
        time.sleep(0.002)
