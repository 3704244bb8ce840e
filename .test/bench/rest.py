"""What is measured beside streams: latency, files, the start, discovery, memory, the size and the time to compile.

Each measurement prints a line. Where BENCH_OTHER names another version of pashlib, its figures follow those of this.
"""
import os
import select
import shutil
import statistics
import subprocess
import sys
import time

from lab import LONGEST, MIB, WHOLE_MTU, pinned, wait_until_listening

NAME = "the rest"

SOCAT = "socat262144"


def medians(got, form):
    """A list of names and medians; got has the figures by name, and form is the format of one."""
    return ", ".join("%s %s" % (name, form % statistics.median(figures)) for name, figures in got.items())


def by_version(lab, text):
    """The text of each version of pashlib in a row; text is a function of the version."""
    parts = [text("pashlib")]
    for version in lab.versions[1:]:
        parts.append("%s: %s" % (version, text(version)))
    return "; ".join(parts)


def milliseconds(argv, count=1, env=None):
    """Run a command COUNT times; how long once takes."""
    began = time.monotonic()
    for _ in range(count):
        subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, check=True)
    return (time.monotonic() - began) * 1000 / count


# ---- latency: a byte through one stream, and back through another, all on one CPU ----

def start_nc_circle(lab, a, b, c, d):
    """Start four nc, which carry A to B, and C to D; the processes."""
    port = lab.ports(2)
    processes = []
    for i, path in enumerate((b, d)):
        processes.append(lab.start_shell("0", "exec nc -l 127.0.0.1 %d 1<>%s" % (port + i, path)))
    for i, path in enumerate((a, c)):
        wait_until_listening(port + i)
    for i, path in enumerate((a, c)):
        processes.append(lab.start_shell("0", "exec nc -N 127.0.0.1 %d <%s" % (port + i, path)))
    return processes


def start_pashlib_circle(lab, version, a, b, c, d):
    """Start two pashlib, which carry A to B, and C to D; the processes."""
    binary = lab.binary(version)
    lab.forget_registrations()
    near = [binary, "send*k*1*2*" + a, "recv*l*1*2*" + d]
    far = [binary, "recv*k*2*1*" + b, "send*l*2*1*" + c]
    return [lab.start("0", near), lab.start("0", far)]


def there_and_back(lab, kind, pause):
    """The median of 300 bytes, PAUSE us apart, in us."""
    a, b, c, d = [lab.fifo(name) for name in "abcd"]
    if kind == "nc":
        processes = start_nc_circle(lab, a, b, c, d)
    else:
        processes = start_pashlib_circle(lab, kind, a, b, c, d)
    processes.append(lab.start_shell("0", "exec cat %s >%s" % (b, c)))
    ping = pinned("0", [lab.load, "ping", "300", str(pause), a, d])
    took = float(subprocess.check_output(ping, timeout=LONGEST))
    for process in processes:
        process.wait()
    return took


def latency(lab):
    """Print how long a lone byte takes, and one that others follow closely."""
    for pause, want in ((5000, "at most 1.5 of nc"), (0, "0.3 ms more than nc, each way")):
        kinds = lab.available(["nc", "pashlib"])
        got = {kind: [] for kind in kinds}
        for kind in lab.interleaved(kinds):
            got[kind].append(there_and_back(lab, kind, pause))
        print("  a byte there and back, %d us apart: %s (wanted: %s)" % (pause, medians(got, "%.0f us"), want))


# ---- files ----

def copy_file(lab, kind, source, sink):
    """Carry a file; how long it takes, in s."""
    if kind == SOCAT:
        port = lab.ports(1)
        receiver = lab.start_shell(
            "0", "exec socat -u -b 262144 TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr STDOUT >%s" % (port, sink))
        wait_until_listening(port)
        argv = ["sh", "-c", "exec socat -u -b 262144 STDIN TCP:127.0.0.1:%d <%s" % (port, source)]
    else:
        lab.forget_registrations()
        receiver = lab.start("0", [lab.binary(kind), "recv", "k", "2", "1", sink])
        argv = [lab.binary(kind), "send", "k", "1", "2", source]
    began = time.monotonic()
    sender = lab.start("0", argv)
    for process in (sender, receiver):
        if process.wait():
            sys.exit("bench: %s to %s failed" % (kind, sink))
    return time.monotonic() - began


def files(lab):
    """Print how long a file takes into a file and into /dev/null, less what one byte takes."""
    source = lab.file("src")
    one = lab.file("one")
    copy = lab.file("dst")
    for path, size in ((source, lab.mib * MIB // 2), (one, 1)):
        with open(path, "wb") as f:
            f.write(os.urandom(size))
    for sink in (copy, "/dev/null"):
        kinds = lab.available([SOCAT, "pashlib"])
        got = {kind.rstrip("0123456789"): [] for kind in kinds}
        for kind in lab.interleaved(kinds):
            for_one = copy_file(lab, kind, one, sink)
            for_all = copy_file(lab, kind, source, sink)
            got[kind.rstrip("0123456789")].append(for_all - for_one)
            if sink == copy:
                subprocess.check_call(["cmp", source, copy])
        print("  a file to %s: %s (wanted: no slower)" % (os.path.basename(sink), medians(got, "%.3f s")))
    for path in (source, one, copy):
        os.unlink(path)


# ---- the start ----

def start_up(lab):
    """Print how long an empty program takes, and pashlib addr."""
    commands = {"an empty main": [lab.file("empty")]}
    for version in lab.versions:
        name = "addr" if version == "pashlib" else "addr of " + version
        commands[name] = [lab.binary(version), "addr"]
    got = {name: [] for name in commands}
    for name in lab.interleaved(list(commands)):
        got[name].append(milliseconds(commands[name], count=50))
    print("  start: %s (wanted: at most 1.5 of it and 1 ms)" % medians(got, "%.2f ms"))


def one_byte(lab, version):
    """Start a pair, and carry one byte from a pipe to a pipe; how long it takes, in ms."""
    binary = lab.binary(version)
    lab.forget_registrations()
    began = time.monotonic()
    sender = lab.start_anywhere([binary, "send", "k", "1", "2"], stdin=subprocess.PIPE)
    receiver = lab.start_anywhere([binary, "recv", "k", "2", "1"], stdout=subprocess.PIPE)
    sender.communicate(b"x", timeout=LONGEST)
    said = receiver.communicate(timeout=LONGEST)[0]
    took = (time.monotonic() - began) * 1000
    if said != b"x":
        sys.exit("bench: %s has not carried the one byte" % version)
    return took


def pairs(lab):
    """Print how long it takes to start a pair that meets in a directory and carries one byte."""
    got = {version: [] for version in lab.versions}
    for version in lab.interleaved(lab.versions, 20):
        got[version].append(one_byte(lab, version))

    def text(version):
        return "%.0f ms, %.0f at most" % (statistics.median(got[version]), max(got[version]))

    print("  a pair for one byte over dir: %s (wanted: 60)" % by_version(lab, text))


# ---- discovery ----

def start_coturn(lab):
    """Start a STUN server."""
    argv = ["turnserver", "-n", "--stun-only", "--no-cli", "--no-tls", "--no-dtls", "-L", "127.0.0.1", "-p", "3478"]
    argv += ["--no-stdout-log", "--log-file=/dev/null", "--pidfile", lab.file("turn")]
    return lab.start_anywhere(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_coturn(lab, env):
    """Wait until the STUN server answers."""
    env = dict(env, PASH_STUN_TIMEOUT_MS="200")
    for _ in range(200):
        said = subprocess.run([lab.binary("pashlib"), "addr"], env=env, capture_output=True).stdout
        if b"source=stun" in said:
            return
    sys.exit("bench: turnserver does not answer")


def discover(lab, version, count, env):
    """How long it takes until the last of COUNT streams has its address, in ms.

    It looks at the log each 0.2 ms: a reader that is woken for each line would cost more than what is measured.
    """
    argv = [lab.binary(version)] + ["recv*d%d*1*2*x" % i for i in range(count)]
    said = b""
    began = time.monotonic()
    process = lab.start_anywhere(argv, env=env, stderr=subprocess.PIPE)
    while b"rendezvous dir:" not in said:
        time.sleep(0.0002)
        if select.select([process.stderr], [], [], 0)[0]:
            more = os.read(process.stderr.fileno(), 65536)
            if not more:
                break
            said += more
    took = (time.monotonic() - began) * 1000
    process.communicate(timeout=LONGEST)
    if said.count(b"STUN discovery succeeded") != count:
        sys.exit("bench: %s: %d streams have not learnt their addresses:\n%s" % (version, count, said.decode()))
    return took


def discovery(lab):
    """Print how long discovery takes, for one stream and for many."""
    coturn = start_coturn(lab)
    env = dict(
        os.environ, PASH_NO_HOLEPUNCH="0", PASH_STUN_SERVER="127.0.0.1", PASH_PEER_TIMEOUT_MS="0", PASH_LOG="info")
    wait_for_coturn(lab, env)
    one = {version: [] for version in lab.versions}
    many = {version: [] for version in lab.versions}
    for version in lab.interleaved(lab.versions, 3 * lab.rounds):
        one[version].append(discover(lab, version, 1, env))
        many[version].append(discover(lab, version, 64, env))

    def text(version):
        return "1 stream %.2f ms, 64 streams %.2f ms" % (
            statistics.median(one[version]), statistics.median(many[version]))

    print("  discovery with coturn: %s (wanted: at most 3 of it)" % by_version(lab, text))
    coturn.kill()
    coturn.wait()


# ---- memory, and what the compiler makes ----

def peak_memory(binary):
    """The most memory that any running process of this program has had so far, in KiB."""
    most = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/status" % pid) as f:
                status = f.read()
            with open("/proc/%s/cmdline" % pid) as f:
                command = f.read()
        except OSError:
            continue
        if command.startswith(binary + "\0") and "VmHWM:" in status:
            most = max(most, int(status.split("VmHWM:")[1].split()[0]))
    return most


def memory_after(lab, version, size):
    """Carry SIZE bytes from FIFO to FIFO with the static build; the memory of its largest process then, in KiB."""
    binary = lab.binary(version, "static")
    lab.forget_registrations()
    source = lab.fifo("i")
    sink = lab.fifo("o")
    movers = [lab.start_anywhere([binary, "recv*k*2*1*" + sink]), lab.start_anywhere([binary, "send*k*1*2*" + source])]
    reader = "{ head -c %d; exec sleep 0.3; } <%s >/dev/null" % (size, sink)
    consumer = lab.start_anywhere(["sh", "-c", reader])
    block = bytes(MIB)
    with open(source, "wb", buffering=0) as f:
        for _ in range(size // MIB):
            f.write(block)
        most = peak_memory(binary)
    consumer.wait()
    for mover in movers:
        mover.wait()
    return most


def memory(lab):
    """Print how much memory a process takes, for little data and for much."""
    def text(version):
        little = memory_after(lab, version, MIB)
        much = memory_after(lab, version, 1024 * MIB)
        return "%d KiB for 1 MiB, %d KiB for 1 GiB" % (little, much)

    print("  memory of a process, static: %s (wanted: 2048)" % by_version(lab, text))


def compiler(lab):
    """Print how long it takes to compile, and how large the static program is."""
    def seconds(version):
        argv = ["cc", "-O2", "-o", lab.file("x"), lab.binary(version) + ".c"]
        return "%.2f s" % (min([milliseconds(argv) for _ in range(3)]) / 1000)

    def size(version):
        return "%d bytes" % os.path.getsize(lab.binary(version, "static"))

    print("  cc -O2: %s (wanted: 1.2); static, stripped: %s (wanted: 150,000)" % (
        by_version(lab, seconds), by_version(lab, size)))


def run(lab):
    """Measure all of it."""
    lab.set_mtu(WHOLE_MTU)
    print("\n" + NAME)
    latency(lab)
    files(lab)
    start_up(lab)
    pairs(lab)
    if shutil.which("turnserver"):
        discovery(lab)
    memory(lab)
    compiler(lab)
