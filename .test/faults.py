"""Both ends of a stream, or pashlib addr, with system calls that fail.

Arguments: DIRECTORY PROGRAM LIBRARY WHAT

DIRECTORY is where the program may write. LIBRARY is faults.c, compiled. WHAT is what has the fault:
    send_pipe     a sender whose input is a pipe
    send_file     a sender whose input is a file
    recv          a receiver
    addr          pashlib addr
    interrupted   either end, and what fails are many calls, by EINTR: then all must be carried
Each of the calls below fails the first, the second and the tenth time. The program must never crash, hang, end with a
wrong status, or fail without a word; it may end with 0 only when all of the data has come.

Prints "N runs", then the names of the calls that have not failed in any run though they should have, then what went
wrong, and exits with 1 where that is anything.
"""
import concurrent.futures
import errno
import os
import subprocess
import sys
import threading

CALLS = {
    "accept": errno.EMFILE,
    "bind": errno.EACCES,
    "calloc": errno.ENOMEM,
    "connect": errno.EPERM,
    "dup2": errno.EMFILE,
    "fork": errno.EAGAIN,
    "getentropy": errno.ENOSYS,
    "listen": errno.EADDRINUSE,
    "malloc": errno.ENOMEM,
    "mkdir": errno.ENOSPC,
    "open": errno.EMFILE,
    "poll": errno.ENOMEM,
    "read": errno.EIO,
    "recv": errno.ECONNRESET,
    "recvmsg": errno.ENOMEM,
    "rename": errno.EIO,
    "send": errno.ECONNRESET,
    "sendmsg": errno.ENOMEM,
    "setsockopt": errno.ENOPROTOOPT,
    "socket": errno.EMFILE,
    "socketpair": errno.EMFILE,
    "splice": errno.ENOMEM,
    "write": errno.ENOSPC,
}
NOT_MADE = {                                            # the calls that the program need not make
    # Chance says which end accepts; a pipe is no path to pass on; only the resolver is sure to call malloc().
    "send_pipe": {"accept", "malloc", "recvmsg", "sendmsg"},
    "send_file": {"accept", "malloc", "splice"},
    "recv": {"accept", "malloc", "recvmsg", "sendmsg"},
    "addr": {"accept", "dup2", "mkdir", "open", "read", "recvmsg", "rename", "sendmsg", "splice"},
}
TIMES = (1, 2, 10)
DATA = bytes(range(256)) * 3000
HANGS_AFTER = 120                                       # seconds

directory, program, library, what = sys.argv[1:]
source = os.path.join(directory, "source")
struck = os.path.join(directory, "struck")              # the library leaves a file here for each call that failed


def environment(fail, timeout_ms):
    """The environment of a process that has the fault FAIL, or none where that is empty.

    It logs errors alone, so that a word is one about the fault. Where write() fails, that word may be what is lost.
    """
    level = "info" if fail.startswith("write") else "error"
    env = dict(os.environ, PASH_LOG=level, PASH_PEER_TIMEOUT_MS=timeout_ms, PASH_CONNECT_TIMEOUT_MS=timeout_ms)
    if fail:
        env.update(FAIL=fail, STRUCK=struck, LD_PRELOAD=library)
    return env


def end_of(process, name):
    """Wait for the process. Returns its status, its output, its log, and a list of what is wrong with them."""
    wrong = []
    try:
        out, log = process.communicate(timeout=HANGS_AFTER)
    except subprocess.TimeoutExpired:
        process.kill()
        out, log = process.communicate()
        return -99, b"", log, ["%s hangs" % name]
    if process.returncode not in (0, 1):
        wrong.append("%s: exit status %d" % (name, process.returncode))
    if process.returncode and not log:
        wrong.append("%s fails without a word" % name)
    if b"signal 11" in log or b"signal 6" in log:
        wrong.append("%s crashes" % name)
    return process.returncode, out, log, wrong


def give(descriptor):
    """Write all of the data into a pipe, unless its reader goes away, and close it."""
    try:
        os.write(descriptor, DATA)
    except OSError:
        pass
    os.close(descriptor)


def stream(key, fail, side, from_file):
    """One stream, of which SIDE has the fault. Returns what went wrong, a text each."""
    interrupted = fail.startswith("eintr")
    timeout_ms = "60000" if interrupted else "2500"
    send = [program, "send", key, "1", "2"]
    giver = None
    if from_file:
        send.append(source)
        given = os.open(os.devnull, os.O_RDONLY)
    else:
        given, giver = os.pipe()
    sender = subprocess.Popen(
        send,
        env=environment(fail if side == "send" else "", timeout_ms),
        stdin=given,
        stderr=subprocess.PIPE,
    )
    os.close(given)
    receiver = subprocess.Popen(
        [program, "recv", key, "2", "1"],
        env=environment(fail if side == "recv" else "", timeout_ms),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    if giver is not None:
        threading.Thread(target=give, args=(giver,), daemon=True).start()
    received, out, receiver_log, wrong = end_of(receiver, "recv")
    sent, _, sender_log, more = end_of(sender, "send")
    wrong += more
    if (received == 0 or sent == 0) and out != DATA:
        wrong.append("exit status 0 with %d of %d bytes" % (len(out), len(DATA)))
    if sent == 0 and received != 0:
        wrong.append("the sender is content, and the receiver is not")
    if interrupted and (sent or received):
        wrong.append("interrupted, and not carried: exit statuses %d %d" % (sent, received))
    logs = sender_log.decode() + receiver_log.decode()
    return ["%s of %s: %s\n%s" % (fail, side, w, logs) for w in wrong]


def addr(fail):
    """pashlib addr, which asks two STUN servers, and IMDS, and none of them is there. Returns what went wrong."""
    env = environment(fail, "2500")
    env.update(
        PASH_NO_HOLEPUNCH="0",
        PASH_STUN_SERVER="localhost:9,tcp:127.0.0.1:9",
        PASH_STUN_TIMEOUT_MS="1500",
        AWS_EC2_METADATA_DISABLED="false",
        AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1:9",
    )
    process = subprocess.Popen([program, "addr"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    status, out, log, wrong = end_of(process, "addr")
    if (status == 0) != (out.count(b"\n") == 3):
        wrong.append("exit status %d with the output %r" % (status, out))
    return ["%s of addr: %s\n%s" % (fail, w, log.decode()) for w in wrong]


def main():
    with open(source, "wb") as f:
        f.write(DATA)
    os.mkdir(struck)
    wanted = {"eintr"} if what == "interrupted" else set(CALLS) - NOT_MADE[what]
    runs = []
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        if what == "interrupted":
            for n in (2, 3, 5):
                for side, from_file in (("send", False), ("send", True), ("recv", False)):
                    runs.append(pool.submit(stream, "f%d" % len(runs), "eintr %d" % n, side, from_file))
        else:
            for call, error in CALLS.items():
                for n in TIMES:
                    fail = "%s %d %d" % (call, n, error)
                    if what == "addr":
                        runs.append(pool.submit(addr, fail))
                    else:
                        side = what.split("_")[0]
                        runs.append(pool.submit(stream, "f%d" % len(runs), fail, side, what == "send_file"))
        wrong = []
        for run in runs:
            wrong += run.result()
    print("%d runs" % len(runs))
    print(" ".join(sorted(wanted - set(os.listdir(struck)))))
    print("\n".join(wrong), end="")
    sys.exit(bool(wrong))


main()
