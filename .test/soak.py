"""Many streams, some of which lose an end.

Arguments: PROGRAM in_a_row N            N streams, one after the other, of different lengths: all must be whole
           PROGRAM at_once SECONDS       64 streams at once, again and again; in half of them an end is killed, or not
                                         quite: it may have ended before
A stream is whole and ends with 0 at both ends; or, where one end was killed, the other ends with 1, or with 0 when all
of the data has come.

Prints what was done, then what went wrong, and exits with 1 where that is anything.
"""
import os
import random
import signal
import subprocess
import sys
import threading
import time

AT_ONCE = 64
PATIENT_MS = "60000"                                    # where both ends live: how slow a busy machine may be
IMPATIENT_MS = "15000"                                  # where one may be killed: how long the other waits for it

program, mode, amount = sys.argv[1:]
block = os.urandom(1 << 20)
lock = threading.Lock()
whole = 0                                               # streams that were
cut = 0                                                 # streams that lost an end
wrong = []


def feed(pipe, data):
    """Write the data to the pipe and close it, unless its reader has gone."""
    try:
        pipe.write(data)
    except OSError:
        pass
    try:
        pipe.close()
    except OSError:
        pass


def kill(process, number):
    """Send the process the signal, if it still runs."""
    if process.poll() is None:
        process.send_signal(number)


def carry(key, data, victim=None, after=0.0):
    """Carry the data over a stream, and kill its VICTIM, "send" or "recv", AFTER so many seconds.

    Returns the exit statuses of both ends, what came, and what they said.
    """
    timeout_ms = IMPATIENT_MS if victim else PATIENT_MS
    env = dict(os.environ, PASH_PEER_TIMEOUT_MS=timeout_ms, PASH_CONNECT_TIMEOUT_MS=timeout_ms)
    sender = subprocess.Popen(
        [program, "send", key, "1", "2"],
        env=env,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    receiver = subprocess.Popen(
        [program, "recv", key, "2", "1"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said = []
    killer = None
    if victim:
        process = sender if victim == "send" else receiver
        number = random.choice((signal.SIGKILL, signal.SIGTERM))
        killer = threading.Timer(after, kill, (process, number))
        killer.start()
    threads = [
        threading.Thread(target=feed, args=(sender.stdin, data)),
        threading.Thread(target=lambda: said.append(sender.stderr.read())),
        threading.Thread(target=lambda: said.append(receiver.stderr.read())),
    ]
    for thread in threads:
        thread.start()
    out = receiver.stdout.read()
    statuses = (sender.wait(), receiver.wait())
    if killer:
        killer.cancel()
        killer.join()
    for thread in threads:
        thread.join()
    for pipe in (sender.stderr, receiver.stderr, receiver.stdout):
        pipe.close()
    return statuses, out, said


def judge(key, data, statuses, out, said):
    """Count the stream as whole, as cut, or as wrong. A negative exit status is a signal's."""
    global whole, cut
    sent, received = statuses
    complete = out == data
    if sent < 0 <= received:
        good = received == 1 or (received == 0 and complete)
    elif received < 0 <= sent:
        good = sent == 1 or (sent == 0 and complete)
    else:
        good = sent == 0 and received == 0 and complete
    with lock:
        if not good:
            wrong.append("%s: exit statuses %r with %d of %d bytes: %r" % (key, statuses, len(out), len(data), said))
        elif sent < 0 or received < 0:
            cut += 1
        else:
            whole += 1


def in_a_row(count):
    for i in range(count):
        key = "row%d" % i
        data = block[:random.randrange(1 << random.randrange(1, 20))]
        judge(key, data, *carry(key, data))
    print("%d streams in a row: %d whole" % (count, whole))


def one_of_many(worker, end):
    """Carry one stream after the other until the END, or until something is wrong."""
    n = 0
    while time.monotonic() < end and not wrong:
        n += 1
        key = "w%d-%d" % (worker, n)
        data = block[:random.randrange(1 << random.randrange(1, 21))] * random.choice((1, 1, 4))
        victim = random.choice(("send", "recv", None, None))
        after = random.random() * random.choice((0.02, 0.2, 1))
        judge(key, data, *carry(key, data, victim, after))


def at_once(seconds):
    end = time.monotonic() + seconds
    workers = [threading.Thread(target=one_of_many, args=(i, end)) for i in range(AT_ONCE)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print("%d streams at once for %g s: %d whole, %d cut by a kill" % (AT_ONCE, seconds, whole, cut))
    if not whole or not cut:
        wrong.append("none was whole, or none was cut: this shows nothing")


def main():
    random.seed(7)
    descriptors = len(os.listdir("/proc/self/fd"))
    if mode == "in_a_row":
        in_a_row(int(amount))
    else:
        at_once(float(amount))
    if len(os.listdir("/proc/self/fd")) != descriptors:
        wrong.append("descriptors are left")
    print("\n".join(wrong), end="")
    sys.exit(bool(wrong))


main()
