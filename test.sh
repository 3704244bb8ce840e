#!/bin/sh
# ./test.sh            all tests; needs a C compiler; uses coturn, python3, clang, tcc ... where they are
# ./test.sh NAME...    some of them: the functions t_NAME below
# ./test.sh demo       the main job, in the shape in which PaSh generates it
# ./test.sh bench      how fast it is, beside nc and others
# ./test.sh soak       1,000 transfers in a row, then 64 at once for two minutes
#
# All of it runs in a network namespace of its own, where one can be made, with nothing but loopback.
# REQUIRE_ALL=1 makes a failure of every skip. Settings of the caller's are dropped.
# The t_ functions are called by name, and what a quoted command names is expanded by the shell it is for.
# shellcheck disable=SC2329,SC2317,SC2016
cd "$(dirname "$0")" || exit 1
if [ -z "${PASHLIB_NS-}" ] && command -v ip >/dev/null; then
    for user in '' '--map-root-user'; do
        # shellcheck disable=SC2086 # none or one word
        unshare -n -m $user ip link set lo up 2>/dev/null || continue
        # shellcheck disable=SC2086
        PASHLIB_NS="root$user" exec unshare -n -m $user sh -c 'ip link set lo up; exec "$0" "$@"' ./test.sh "$@"
    done
fi
for v in $(env | sed -n 's/^\(PASH_[A-Z_]*\|AWS_[A-Z0-9_]*\)=.*/\1/p'); do unset "$v"; done
LC_ALL=C
tmp=$(mktemp -d) || exit 1
TMPDIR=$tmp
PASH_RENDEZVOUS=dir:$tmp/rdv
PASH_NO_HOLEPUNCH=1
AWS_EC2_METADATA_DISABLED=true
PASH_PUBLIC_IP=127.0.0.1
PASH_PEER_TIMEOUT_MS=20000
export LC_ALL TMPDIR PASH_RENDEZVOUS PASH_NO_HOLEPUNCH AWS_EC2_METADATA_DISABLED PASH_PUBLIC_IP
export PASH_PEER_TIMEOUT_MS
P=./pashlib # no blanks in it
passed=0 failed=0 skipped=0

cleanup() {
    for p in "$tmp"/*.pid; do [ -f "$p" ] && kill -9 "$(cat "$p")" 2>/dev/null; done
    umount "$tmp/mnt" 2>/dev/null
    [ -z "${loop-}" ] || losetup -d "$loop"
    rm -rf "$tmp" 2>/dev/null || { sleep 0.2; rm -rf "$tmp"; }
}
trap cleanup EXIT
trap 'exit 1' INT TERM HUP

# ---- what the tests are made of ----

pass() { passed=$((passed + 1)); echo "ok $((passed + failed)) - $1"; }
fail() {                                            # NAME DETAIL...
    failed=$((failed + 1))
    echo "not ok $((passed + failed)) - $1"
    shift
    printf '# %s\n' "$@"
}
is() {                                              # NAME WANT GOT
    if [ "$2" = "$3" ]; then pass "$1"; else fail "$1" "want: $2" " got: $3"; fi
}
has() {                                             # NAME FILE BASIC-REGEX
    if grep -q -e "$3" "$2" 2>/dev/null; then pass "$1"; else
        fail "$1" "no line in $2 matches: $3" "$(head -c 1500 "$2" 2>&1)"
    fi
}
hasnt() {                                           # NAME FILE BASIC-REGEX
    if grep -q -e "$3" "$2"; then fail "$1" "a line matches: $3" "$(head -c 1500 "$2")"; else pass "$1"; fi
}
skip() {                                            # NAME REASON
    if [ -n "${REQUIRE_ALL-}" ]; then fail "$1" "skipped: $2"; return; fi
    skipped=$((skipped + 1))
    echo "skip - $1: $2"
}
need() {                                            # NAME PROGRAM...: 1, and a skip, where one is missing
    need_name=$1
    shift
    for program in "$@"; do
        command -v "$program" >/dev/null || { skip "$need_name" "there is no $program"; return 1; }
    done
}
run() {                                             # COMMAND...: to its end; status, $tmp/out, $tmp/err
    timeout 60 "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    status=$?
}
until_true() {                                      # COMMAND...: asked until it holds, 20 s at most
    tries=0
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 400 ] || return 1
        sleep 0.05
    done
}
bg() {                                              # NAME COMMAND...: in the background; see ended, stop
    bg_name=$1
    shift
    rm -f "$tmp/$bg_name.rc" "$tmp/$bg_name.pid"
    (
        sh -c 'echo $$ >"$0.pid"; exec "$@"' "$tmp/$bg_name" "$@" \
            >"$tmp/$bg_name.out" 2>"$tmp/$bg_name.err" </dev/null
        echo $? >"$tmp/$bg_name.rc1"
        mv "$tmp/$bg_name.rc1" "$tmp/$bg_name.rc"
        rm -f "$tmp/$bg_name.pid"
    ) 2>/dev/null &
    until_true test -s "$tmp/$bg_name.pid" -o -f "$tmp/$bg_name.rc"
}
ended() {                                           # NAME: wait for it; status
    until_true test -f "$tmp/$1.rc" && status=$(cat "$tmp/$1.rc") || status=hangs
}
pid() { cat "$tmp/$1.pid" 2>/dev/null; }
stop() { [ ! -f "$tmp/$1.pid" ] || kill -9 "$(pid "$1")" 2>/dev/null; ended "$1"; }
both() {                                            # NAME WANT: S and R, exit statuses "S R"
    ended S
    sent=$status
    ended R
    is "$1" "$2" "$sent $status"
}
left_nothing() {                                    # NAME: no registration, no process
    is "$1: no registration is left" '' "$(find "$tmp/rdv" -mindepth 1 2>/dev/null)"
}
below() {                                           # PID...: all its descendants that are alive
    for below_pid in $(ps -A -o pid=,ppid=,stat= | awk -v p="$1" '$2 == p && $3 !~ /Z/ { print $1 }'); do
        echo "$below_pid"
        below "$below_pid"
    done
}
python() { need "$1" python3; }
switches() {                                        # NAME...: how often all their processes have gone to sleep
    for switches_pid in $(for n in "$@"; do below "$(pid "$n")"; pid "$n"; done); do
        awk '$1 == "voluntary_ctxt_switches:" { print $2 }' "/proc/$switches_pid/status" 2>/dev/null
    done | awk '{ n += $1 } END { print n + 0 }'
}

# ---- tools: servers that lie, and a peer with a mind of its own ----

cat >"$tmp/stun.py" <<'END'
# A STUN server a mode, each on a port of its own, UDP and TCP; the file named in argv[1] lists them.
import os, select, socket, struct, sys, threading, time
C = b"\x21\x12\xa4\x42"
MODES = ("good other mapped ipv6 wrongid wrongcookie badlen cutattr unspec port0 multicast error errid late "
         "silent forged othersock lose1 lose2 noaddr pieces huge half brief").split()
socks = {}
def attr(kind, value): return struct.pack("!HH", kind, len(value)) + value + b"\0" * (-len(value) % 4)
def xor(ip, port, tid, kind=0x20, plain=False):
    fam = socket.AF_INET6 if ":" in ip else socket.AF_INET
    raw = socket.inet_pton(fam, ip)
    if not plain:
        raw = bytes(a ^ b for a, b in zip(raw, C + tid))
        port ^= 0x2112
    return attr(kind, struct.pack("!BBH", 0, 2 if ":" in ip else 1, port) + raw)
def msg(body, tid, kind=0x101, cookie=C, add=0):
    return struct.pack("!HH", kind, len(body) + add) + cookie + tid + body
extra = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); extra.bind(("127.0.0.1", 0))
count, later, seen = {}, [], open(sys.argv[1] + ".log", "w", 1)
def answers(mode, tid):
    good = msg(attr(0x8022, b"fake") + xor("198.51.100.7", 4242, tid), tid)
    return {
        "good": [good, good], "other": [msg(xor("198.51.100.7", 4343, tid), tid)],
        "mapped": [msg(xor("198.51.100.7", 4242, tid, 0x01, True), tid)],
        "ipv6": [msg(xor("2001:db8::9", 4242, tid), tid)],
        "wrongid": [msg(xor("198.51.100.66", 1, tid), bytes(12))],
        "wrongcookie": [msg(xor("198.51.100.66", 1, tid), tid, cookie=b"\x21\x12\xa4\x43")],
        "badlen": [msg(xor("198.51.100.66", 1, tid), tid, add=4), msg(xor("198.51.100.66", 1, tid), tid, add=-4)],
        "cutattr": [msg(struct.pack("!HH", 0x20, 8) + b"\0\1", tid)],
        "unspec": [msg(xor("0.0.0.0", 5, tid), tid)], "port0": [msg(xor("198.51.100.66", 0, tid), tid)],
        "multicast": [msg(xor("224.0.0.1", 5, tid), tid)],
        "error": [msg(attr(9, b"\0\0\4\x14Un\x1b[31mknown"), tid, 0x111)],
        "errid": [msg(attr(9, b"\0\0\4\x14No"), bytes(12), 0x111)],
        "forged": [b"", b"x" * 1500, msg(xor("198.51.100.66", 1, tid), bytes(12)), good],
        "noaddr": [msg(attr(0x8022, b"nothing"), tid)], "pieces": [good], "late": [good], "brief": [good],
        "huge": [msg(attr(0x8022, bytes(2040)) + xor("198.51.100.66", 1, tid), tid)], "half": [good[:-4]],
        "lose1": [good] if count.get(mode, 0) > 1 else [], "lose2": [good] if count.get(mode, 0) > 2 else [],
    }.get(mode, [])
def talk(c, mode):                                      # one TCP connection
    q, c = b"", c
    try:
        while len(q) < 20: q += c.recv(20 - len(q)) or exit()
        seen.write("tcp-%s %.3f %s %s\n" % (mode, time.time(), q.hex(), c.getpeername()[1]))
        if mode == "late": time.sleep(0.4)
        if mode == "forged": c.sendall(msg(xor("198.51.100.66", 1, q[8:20]), bytes(12)))
        for m in answers("good" if mode == "forged" else mode, q[8:20]):
            for b in [m[i:i + 1] for i in range(len(m))] if mode == "pieces" else [m]:
                c.sendall(b)
                if mode == "pieces": time.sleep(0.005)
        if mode == "brief": time.sleep(0.5)
        if mode in ("half", "brief"): return
        rest = c.recv(100)
        seen.write("tcp-%s closed after %d more\n" % (mode, len(rest)))
    except (OSError, SystemExit) as e: seen.write("tcp-%s over: %r\n" % (mode, e))
    finally: c.close()
def listen(t, mode):
    while True: threading.Thread(target=talk, args=(t.accept()[0], mode), daemon=True).start()
for mode in MODES:
    while True:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0))
        t = socket.socket()
        t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try: t.bind(s.getsockname())
        except OSError: continue
        break
    t.listen(16); socks[s] = mode
    threading.Thread(target=listen, args=(t, mode), daemon=True).start()
with open(sys.argv[1] + ".new", "w") as f:
    for s, mode in socks.items(): f.write("%s %d\n" % (mode, s.getsockname()[1]))
os.rename(sys.argv[1] + ".new", sys.argv[1])
while True:
    wait = max(0, min([t for t, *_ in later], default=time.time() + 60) - time.time())
    for s in select.select(list(socks), [], [], wait)[0]:
        q, who = s.recvfrom(2000)
        mode, tid = socks[s], q[8:20]
        count[mode] = count.get(mode, 0) + 1
        seen.write("%s %.3f %s %s\n" % (mode, time.time(), q.hex(), who[1]))
        good, a = answers("good", tid)[0], [] if mode == "late" else answers(mode, tid)
        for m in a: s.sendto(m, who)
        if mode == "othersock": extra.sendto(good, who)
        if mode == "late" and count[mode] == 1: later.append((time.time() + 1.2, s, good, who))
    for t in [t for t in later if t[0] <= time.time()]:
        later.remove(t)
        t[1].sendto(t[2], t[3])
END
cat >"$tmp/imds.py" <<'END'
# An instance metadata service a mode, each on a port of its own; argv[1] lists them, argv[1].log the requests.
import json, os, socket, sys, threading, time
MODES = ("v2 v1 v1-404 v1-500 hang nopub garbage cut cuthead toolong slow slower redirect badtoken ipv6 newline "
         "nolen unspec closed badlen put400 quiet role rolehang rolestale roleonce nul norole rolefail rolemissing").split()
ROLE, fetched = "GET /latest/meta-data/iam/security-credentials/", {}
public = sys.argv[2] if len(sys.argv) > 2 else ""       # of the one service at 169.254.169.254
log = open(sys.argv[1] + ".log", "w", 1)
def answer(c, status, body, length=None, headers=""):
    length = "" if length == -1 else "Content-Length: %d\r\n" % (len(body) if length is None else length)
    c.sendall(("HTTP/1.1 %s\r\nServer: fake\r\n%s%s\r\n%s" % (status, headers, length, body)).encode())
def serve(c, mode):
    try:
        q = b""
        while b"\r\n\r\n" not in q:
            more = c.recv(4096)
            if not more: return
            q += more
        q = q.decode()
        log.write("%s %r\n" % (mode, q))
        put = q.startswith("PUT /latest/api/token HTTP/1.0\r\n") and "X-aws-ec2-metadata-token-ttl-seconds: " in q
        get = q.startswith("GET /latest/meta-data/public-ipv4 HTTP/1.0\r\n") and "\r\nHost: " in q
        token = "X-aws-ec2-metadata-token: TOKEN==" in q
        ip = public or "198.51.100.9"
        if mode == "quiet": time.sleep(30)
        elif put and mode in ("hang", "rolehang"): time.sleep(30)
        elif put and mode == "badtoken": answer(c, "200 OK", "TOK\r\nX-Evil: 1")
        elif put and mode == "put400": answer(c, "400 Bad Request", "")
        elif put and mode.startswith("v1"): answer(c, {"v1": "403 No", "v1-404": "404 No", "v1-500": "503 No"}[mode], "")
        elif put: answer(c, "200 OK", "TOKEN==")
        elif q.startswith(ROLE + " "): answer(c, "404 No" if mode == "norole" else "200 OK", "my+role@x")
        elif q.startswith(ROLE + "my+role@x "):
            fetched[mode] = fetched.get(mode, 0) + 1
            who = ("OLD", "oldsecret") if fetched[mode] == 1 else ("NEW", "newsecret")
            a = {"Code": "Failed" if mode == "rolefail" else "Success", "Type": "AWS-HMAC", "AccessKeyId": who[0],
                 "SecretAccessKey": who[1], "Token": "session+token/==",
                 "Expiration": "2000-01-01T00:00:00Z" if mode == "rolestale" else "2099-01-01T00:00:00Z"}
            if mode == "rolemissing": del a["Token"]
            if mode == "roleonce": a["Expiration"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 30))
            if mode == "roleonce" and fetched[mode] > 1: answer(c, "500 No", "")
            else: answer(c, "200 OK" if token != (mode == "rolehang") else "401 No", json.dumps(a, indent=2))
        elif not get or token != (mode not in ("v1", "v1-404", "v1-500", "hang")): answer(c, "401 Unauthorized", "")
        elif mode == "nopub": answer(c, "404 Not Found", "<html>")
        elif mode == "garbage": answer(c, "200 OK", "hello")
        elif mode == "cut": answer(c, "200 OK", ip[:-1], len(ip))
        elif mode == "cuthead": c.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")
        elif mode == "badlen": answer(c, "200 OK", ip, headers="Content-Length: 1x\r\n")
        elif mode == "toolong": answer(c, "200 OK", "1" * 40000, -1)
        elif mode == "redirect": answer(c, "302 Found", "", headers="Location: http://127.0.0.1:1/\r\n")
        elif mode == "ipv6": answer(c, "200 OK", "2001:db8::9")
        elif mode == "unspec": answer(c, "200 OK", "0.0.0.0")
        elif mode == "nul": answer(c, "200 OK", ip + "\0")
        elif mode == "newline": answer(c, "200 OK", ip + " \r\n")
        elif mode == "nolen": answer(c, "200 OK", ip, -1)
        elif mode.startswith("slow"):
            for b in "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n" + ip:
                c.sendall(b.encode())
                time.sleep(0.01 if mode == "slow" else 0.2)
        else: answer(c, "200 OK", ip)
    except OSError: pass
    finally: c.close()
def listen(s, mode):
    while True:
        c = s.accept()[0]
        if mode == "closed": c.close()
        else: threading.Thread(target=serve, args=(c, mode), daemon=True).start()
with open(sys.argv[1] + ".new", "w") as f:
    for mode in ["v2"] if public else MODES:
        s = socket.socket(); s.bind(("169.254.169.254", 80) if public else ("127.0.0.1", 0)); s.listen(50)
        f.write("%s %d\n" % (mode, s.getsockname()[1]))
        threading.Thread(target=listen, args=(s, mode), daemon=True).start()
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
END
cat >"$tmp/peer.py" <<'END'
# A peer written from the wire format in README alone. argv: rendezvous directory, KEY, ME, PEER, what to do.
import hashlib, hmac, json, os, socket, struct, sys, time
rdv, key, me, peer, mode = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
sends = mode.startswith("send")
def take(c, n):
    b = b""
    while len(b) < n:
        more = c.recv(n - len(b))
        if not more: raise EOFError("the other end closed after %d of %d bytes" % (len(b), n))
        b += more
    return b
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(50); l.settimeout(15)
mine = "127.0.0.1:%d" % l.getsockname()[1]
d = os.path.join(rdv, key); os.makedirs(d, 0o700, exist_ok=True); os.chmod(rdv, 0o700)
def write(name, text):
    with open(d + "/tmp", "w") as f: f.write(text)
    os.rename(d + "/tmp", d + "/N_%d" % name)
if mode != "send-crowded": write(me, json.dumps({"x": [1, {"y": None}], "external_addr": mine, "local_addr": mine}, indent=1))
if mode == "register": time.sleep(30)
def shake(c, role, hello=None, bad_proof=False):
    hello = hello or b"PASHLIB1" + struct.pack("!B3xII", role, me, peer) + os.urandom(16)
    c.settimeout(15)
    c.sendall(hello)
    theirs = take(c, 36)
    if mode == "send-crowded":                      # now it has our HELLO, and the world knocks
        held.extend(socket.create_connection(c.getpeername()) for i in range(40))
        time.sleep(0.5)
    assert theirs[:8] == b"PASHLIB1" and theirs[9:12] == bytes(3) and theirs[12:20] == struct.pack("!II", peer, me), theirs
    proof = lambda a, b: hmac.new(key.encode(), b"pashlib proof" + a + b, hashlib.sha256).digest()
    c.sendall(bytes(32) if bad_proof else proof(hello, theirs))
    assert hmac.compare_digest(take(c, 32), proof(theirs, hello)), "bad proof"
    return theirs[8]
role, held = 1 if sends else 2, []
if mode == "send-crowded":
    with open(d + "/N_%d" % peer) as f: c = socket.create_connection(("127.0.0.1", int(json.load(f)["local_addr"].split(":")[1])))
else: c = l.accept()[0]
if mode.startswith("bad"):
    h = b"PASHLIB1" + struct.pack("!B3xII", 2, me, peer) + os.urandom(16)
    h = {"badmagic": b"X" + h[1:], "badrole": h[:8] + b"\3" + h[9:], "badzero": h[:9] + b"\1" + h[10:],
         "badnode": h[:12] + struct.pack("!I", me + 7) + h[16:]}.get(mode, h)
    try: shake(c, role, h, mode == "badproof")
    except (EOFError, OSError): pass
    c.close(); time.sleep(30)
their = shake(c, role)
if mode == "recv-same": assert their == 2
elif mode != "send-same": assert their == 3 - role
frame = lambda b: struct.pack("!I", len(b)) + b
if me < peer and mode != "recv-nogo": first = b"G"
elif mode == "recv-nogo": c.sendall(b"N"); time.sleep(30)
else: first = b""; assert take(c, 1) == b"G"
if not sends:
    c.sendall(first)
    got, n = b"", 0
    while True:
        n = struct.unpack("!I", take(c, 4))[0]
        if mode == "recv-cut": os._exit(0)
        if mode == "recv-gone": break
        if n == 0: break
        assert n <= 1 << 20
        got += take(c, n)
        if mode == "recv-early": break
    answer = {"recv-wrong": len(got) + 1, "recv-gone": 2**64 - 1}.get(mode, len(got))
    if mode == "recv": assert struct.unpack("!Q", take(c, 8))[0] == len(got); c.sendall(struct.pack("!Q", 2**64 - 2))
    for b in struct.pack("!Q", answer): c.sendall(bytes([b])); time.sleep(0.01)
    if mode == "recv": assert c.recv(1) == b""
    print(hashlib.sha256(got).hexdigest(), len(got))
else:
    data = bytes(range(256)) * 9
    ok = first + frame(data[:1]) + frame(data[1:1000]) + frame(data[1000:])
    end = struct.pack("!IQ", 0, len(data))
    if mode in ("send", "send-crowded"): c.sendall(ok + end)
    elif mode == "send-trickle":
        for b in ok + end: c.sendall(bytes([b]))
    elif mode == "send-big": c.sendall(ok + struct.pack("!I", (1 << 20) + 1) + b"x")
    elif mode == "send-max": data = b"z" * (1 << 20); c.sendall(first + frame(data) + struct.pack("!IQ", 0, len(data)))
    elif mode == "send-total": c.sendall(ok + struct.pack("!IQ", 0, len(data) + 1))
    elif mode == "send-cutframe": c.sendall(first + frame(data)[:-5]); time.sleep(0.5); c.close(); sys.exit()
    elif mode == "send-noend": c.sendall(ok); time.sleep(0.5); c.close(); sys.exit()
    elif mode == "send-cutend": c.sendall(ok + end[:-1]); time.sleep(0.5); c.close(); sys.exit()
    try:
        a = struct.unpack("!Q", take(c, 8))[0]
        print(a if a != 2**64 - 1 else "gone")
        c.shutdown(socket.SHUT_WR)
        assert c.recv(1) == b""
    except (EOFError, ConnectionResetError) as e: print("no answer")
END
cat >"$tmp/greedy.py" <<'END'
# A peer that knows the key and abuses it: it opens 45 connections, proves them all, says GO on none, and
# registers again and again at addresses where it accepts and says nothing. argv: directory, key, port.
import hashlib, hmac, json, os, socket, struct, sys, time
d, key, port = sys.argv[1] + "/" + sys.argv[2], sys.argv[2].encode(), int(sys.argv[3])
held = []
def listen(ip, port=0):
    s = socket.socket(); s.bind((ip, port)); s.listen(50); held.append(s)
    return s.getsockname()[1]
def register():
    a, b = listen("127.0.0.1"), listen("127.0.0.2")
    listen("127.0.0.2", a)
    with open(d + "/new", "w") as f: json.dump({"local_addr": "127.0.0.1:%d" % a, "external_addr": "127.0.0.2:%d" % b}, f)
    os.rename(d + "/new", d + "/N_0")
    time.sleep(0.5)
register()
for i in range(45):
    c = socket.create_connection(("127.0.0.1", port)); c.settimeout(1); held.append(c)
    hello = b"PASHLIB1" + struct.pack("!B3xII", 1, 0, 1) + os.urandom(16)
    c.sendall(hello)
    try: c.sendall(hmac.new(key, b"pashlib proof" + hello + c.recv(36, socket.MSG_WAITALL), hashlib.sha256).digest())
    except OSError: break
for i in range(4): register()
END
cat >"$tmp/terminal.py" <<'END'
# pashlib recv into a terminal that shows nothing for 65 s. argv: the words of the command.
import os, pty, subprocess, sys, time, tty
m, s = pty.openpty()
tty.setraw(s)
p = subprocess.Popen(sys.argv[1:], stdout=s)
os.close(s)
time.sleep(65)
n = 0
while True:
    try: more = os.read(m, 65536)
    except OSError: break
    if not more: break
    n += len(more)
print(n)
sys.exit(p.wait())
END
cat >"$tmp/strangers.py" <<'END'
# argv: port, how many connections that say nothing, that say something else, that say what node 0 would say to node 1,
# which takes no key, and then nothing. Holds them for 20 s.
import os, socket, struct, sys, time
held, quiet, loud, mirror = [], *map(int, sys.argv[2:5])
for i in range(quiet + loud + mirror):
    c = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    if i >= quiet + loud: c.sendall(b"PASHLIB1" + struct.pack("!B3xII", 1, 0, 1) + os.urandom(16)); c.recv(36)
    elif i >= quiet: c.sendall(os.urandom(100) if i % 2 else b"GET / HTTP/1.0\r\n\r\n")
    held.append(c)
print("held", flush=True)
time.sleep(20)
END

# ---- unit tests: the program included, under sanitizers ----

t_unit() {
    cat >"$tmp/unit.c" <<'END'
#define main pashlib_main
#include "pashlib.c"
#undef main
static int tests, wrong;
static void is(const char *name, const char *want, const char *got)
{
    tests++;
    if (strcmp(want, got) == 0) return;
    wrong++;
    printf("# unit: %s\n# want: %s\n#  got: %s\n", name, want, got);
}
static void is_n(const char *name, long want, long got)
{
    char w[32], g[32];
    snprintf(w, sizeof w, "%ld", want); snprintf(g, sizeof g, "%ld", got);
    is(name, w, g);
}
/* The bytes of HEX, blanks skipped, in an allocation of their very length. */
static unsigned char *unhex(const char *hex_, size_t *len)
{
    unsigned char *p = malloc(strlen(hex_) / 2 + 1), *fit;
    unsigned v;
    for (*len = 0; *hex_; hex_++) if (*hex_ != ' ') { sscanf(hex_, "%2x", &v); p[(*len)++] = (unsigned char)v; hex_++; }
    fit = malloc(*len ? *len : 1); memcpy(fit, p, *len); free(p);
    return fit;
}
static void *exact(const void *p, size_t n) { void *q = malloc(n ? n : 1); memcpy(q, p, n); return q; }

#define ID "b7e7a701bc34d686fa87dfae"
#define HEAD(len) "0101" len "2112a442" ID
static void stun(void)
{
    static const struct { const char *name, *hex, *want; } cases[] = {
        { "RFC 5769, 2.2: IPv4", "0101003c 2112a442 " ID " 8022000b 7465737420766563746f7220"
          "00200008 0001a147 e112a643 00080014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7 80280004 c07d4c96", "192.0.2.1:32853" },
        { "RFC 5769, 2.3: IPv6", "01010048 2112a442 " ID " 8022000b 7465737420766563746f7220"
          "00200014 0002a147 0113a9faa5d3f179bc25f4b5bed2b9d9 00080014 a382954e4be67bf11784c97c8292c275bfe3ed41 80280004 c8fb0b4c",
          "[2001:db8:1234:5678:11:2233:4455:6677]:32853" },
        { "MAPPED-ADDRESS", HEAD("000c") "00010008 00018055 c0000201", "192.0.2.1:32853" },
        { "MAPPED before XOR-MAPPED", HEAD("0018") "00010008 00018055 c0000202 00200008 0001a147 e112a643", "192.0.2.1:32853" },
        { "bad MAPPED before XOR-MAPPED", HEAD("0018") "00010008 00010000 00000000 00200008 0001a147 e112a643", "192.0.2.1:32853" },
        { "MAPPED after XOR-MAPPED", HEAD("0018") "00200008 0001a147 e112a643 00010008 00018055 c0000202", "192.0.2.1:32853" },
        { "first of two XOR-MAPPED", HEAD("0018") "00200008 0001a147 e112a643 00200008 0001a148 e112a644", "192.0.2.1:32853" },
        { "unknown comprehension-required attribute", HEAD("0014") "7fff0001 00000000 00200008 0001a147 e112a643", "192.0.2.1:32853" },
        { "attribute runs past the end", HEAD("0004") "00200008", "attribute 0x0020 runs past the end" },
        { "padding runs past the end", HEAD("0005") "80220001 61", "attribute 0x8022 runs past the end" },
        { "later attribute runs past the end", HEAD("0010") "00200008 0001a147 e112a643 80220004", "attribute 0x8022 runs past the end" },
        { "half an attribute header", HEAD("000e") "00200008 0001a147 e112a643 8022", "attribute 0x8022 runs past the end" },
        { "unknown family", HEAD("000c") "00200008 0003a147 e112a643", "its address is malformed" },
        { "IPv6 family, IPv4 length", HEAD("000c") "00200008 0002a147 e112a643", "its address is malformed" },
        { "IPv4 family, IPv6 length", HEAD("0018") "00200014 0001a147 0113a9faa5d3f179bc25f4b5bed2b9d9", "its address is malformed" },
        { "empty address", HEAD("0004") "00200000", "its address is malformed" },
        { "unspecified address", HEAD("000c") "00200008 0001a147 2112a442", "its address cannot be ours" },
        { "multicast address", HEAD("000c") "00200008 0001a147 c112a443", "its address cannot be ours" },
        { "port 0", HEAD("000c") "00200008 00012112 e112a643", "its address cannot be ours" },
        { "no address", HEAD("0008") "80220004 61626364", "no address in it" },
        { "empty", HEAD("0000"), "no address in it" },
        { "error", "0111000c 2112a442" ID "00090008 00000414 6e6f7065", "error 420 nope" },
        { "error without a reason", "01110008 2112a442" ID "00090004 00000300", "error 300 " },
        { "error without a code", "01110000 2112a442" ID, "an error without a code" },
        { "error with half a code", "01110008 2112a442" ID "00090002 00000000", "an error without a code" },
        { "request", "00010000 2112a442" ID, "not an answer to our request" },
        { "wrong cookie", "0101000c 2112a443" ID "00200008 0001a147 e112a643", "not an answer to our request" },
        { "wrong id", "0101000c 2112a442 b7e7a701bc34d686fa87dfaf 00200008 0001a147 e112a643", "not an answer to our request" },
        { "length too small", HEAD("0008") "00200008 0001a147 e112a643", "not an answer to our request" },
        { "length too large", HEAD("0010") "00200008 0001a147 e112a643", "not an answer to our request" },
        { "nothing", "", "0 bytes are no STUN header" },
    };
    unsigned char *id; size_t n, len;
    id = unhex(ID, &n);
    for (size_t i = 0; i < COUNT(cases); i++) {
        unsigned char *m = unhex(cases[i].hex, &len);
        char why[WHY_MAX]; struct addr a;
        int r = stun_decode(m, len, id, &a, why);
        is(cases[i].name, cases[i].want, r == STUN_ADDRESS ? SHOW(&a) : why);
        for (size_t cut = 0; cut < len; cut++) {
            unsigned char *c = exact(m, cut);
            if (stun_decode(c, cut, id, &a, why) != STUN_DROP) is_n(cases[i].name, -1, (long)cut);
            free(c);
        }
        free(m);
    }
    free(id);
}

static void addresses(void)
{
    static const struct { const char *text, *want; } cases[] = {
        { "1.2.3.4:5", "1.2.3.4:5" }, { "255.255.255.254:65535", "255.255.255.254:65535" },
        { "[2001:db8::1]:80", "[2001:db8::1]:80" }, { "[::ffff:1.2.3.4]:80", "1.2.3.4:80" },
        { "1.2.3.4", "" }, { "1.2.3.4:", "" }, { "1.2.3.4:0", "" }, { "1.2.3.4:65536", "" }, { "1.2.3.4:70000", "" },
        { "1.2.3.4:+5", "" }, { "1.2.3.4: 5", "" }, { "1.2.3.4:5 ", "" }, { " 1.2.3.4:5", "" }, { "1.2.3:5", "" },
        { "1.2.3.256:5", "" }, { "1.2.3.4.5:5", "" }, { "2001:db8::1:80", "" }, { "[2001:db8::1]", "" },
        { "[2001:db8::1]80", "" }, { "[2001:db8::1:80", "" }, { "[1.2.3.4]:80", "" }, { "[]:80", "" }, { ":80", "" },
        { "", "" }, { "host:80", "" }, { "1.2.3.4:99999999999999999999", "" }, { "[fe80::1%lo]:80", "" },
    };
    static const struct { const char *ip; int usable, loopback; } kinds[] = {
        { "1.2.3.4", 1, 0 }, { "127.0.0.1", 1, 1 }, { "127.255.0.9", 1, 1 }, { "::1", 1, 1 }, { "::2", 1, 0 }, { "0.0.0.0", 0, 0 }, { "::", 0, 0 },
        { "224.0.0.1", 0, 0 }, { "239.255.255.255", 0, 0 }, { "240.0.0.1", 1, 0 }, { "255.255.255.255", 0, 0 }, { "ff02::1", 0, 0 },
        { "fe80::1", 1, 0 } };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct addr a, b; struct sockaddr_storage ss;
        int good = addr_parse(cases[i].text, &a);
        is(cases[i].text, cases[i].want, good ? SHOW(&a) : "");
        if (!good) continue;
        is_n("to IPv6 and back", (long)sizeof (struct sockaddr_in6), (long)addr_to_kernel(&a, AF_INET6, &ss));
        b = addr_from_kernel(&ss);
        is_n("to IPv6 and back", 1, addr_same(&a, &b));
        is_n("to IPv4", addr_is_v4(&a) ? (long)sizeof (struct sockaddr_in) : 0, (long)addr_to_kernel(&a, AF_INET, &ss));
        b = addr_from_kernel(&ss);
        is_n("to IPv4 and back", addr_is_v4(&a), addr_same(&a, &b));
    }
    for (size_t i = 0; i < COUNT(kinds); i++) {
        struct addr a = { { 0 }, 1 };
        is_n(kinds[i].ip, 1, ip_parse(kinds[i].ip, &a));
        is_n(kinds[i].ip, kinds[i].usable, addr_usable(&a));
        is_n(kinds[i].ip, kinds[i].loopback, addr_is_loopback(&a));
    }
}

static void numbers(void)
{
    static const struct { const char *text; unsigned long max; long want; } cases[] = {
        { "0", 9, 0 }, { "007", 9, 7 }, { "2147483647", INT_MAX, INT_MAX }, { "2147483648", INT_MAX, -1 }, { "", 9, -1 },
        { "-1", 9, -1 }, { "+1", 9, -1 }, { "1 ", 9, -1 }, { " 1", 9, -1 }, { "0x1", 9, -1 }, { "10", 9, -1 },
        { "99999999999999999999999", 9, -1 } };
    for (size_t i = 0; i < COUNT(cases); i++) {
        unsigned long n;
        is_n(cases[i].text, cases[i].want, number(cases[i].text, cases[i].max, &n) ? (long)n : -1);
    }
}

static void hashes(void)
{
    static const struct { const char *text; long times; const char *want; } sums[] = {        /* FIPS 180-4's examples */
        { "abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
        { "", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
        { "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" },
        { "a", 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0" } };
    static const struct { const char *key, *data, *want; } macs[] = {                           /* RFC 4231, 4.2 to 4.8 */
        { "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "4869205468657265", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7" },
        { "4a656665", "7768617420646f2079612077616e7420666f72206e6f7468696e673f", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843" },
        { "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
          "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe" },
        { "0102030405060708090a0b0c0d0e0f10111213141516171819", "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
          "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b" } };
    char text[2 * HASH + 1], longkey[131];
    unsigned char out[HASH];
    for (size_t i = 0; i < COUNT(sums); i++) {
        size_t len = strlen(sums[i].text), times = (size_t)sums[i].times;
        char *data = malloc(len * times + 1);
        for (size_t k = 0; k < times; k++) memcpy(data + k * len, sums[i].text, len);
        hex(sha256(NULL, data, len * times, out), HASH, text);
        free(data);
        is(sums[i].text, sums[i].want, text);
    }
    for (size_t i = 0; i < COUNT(macs); i++) {
        size_t k, n;
        unsigned char *key = unhex(macs[i].key, &k), *data = unhex(macs[i].data, &n);
        hmac(key, k, data, n, out);
        hex(out, HASH, text);
        is("RFC 4231", macs[i].want, text);
        free(key); free(data);
    }
    memset(longkey, 0xaa, sizeof longkey);
    hmac(longkey, sizeof longkey, "Test Using Larger Than Block-Size Key - Hash Key First", 54, out);
    hex(out, HASH, text);
    is("RFC 4231, 4.7", "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54", text);
    is_n("same", 1, same_in_constant_time(out, out, HASH));
    memcpy(longkey, out, HASH); longkey[HASH - 1] ^= 1;
    is_n("not same", 0, same_in_constant_time(out, (unsigned char *)longkey, HASH));
}

static void http(void)
{
    static const struct { const char *m; int ended; const char *want; } cases[] = {
        { "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 0, "200 abc" },
        { "HTTP/1.0 200 OK\ncontent-length:3 \n\nabcdef", 0, "200 abc" },
        { "HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", 0, "404 " },
        { "HTTP/1.1 200 OK\r\nX: y\r\n\r\nabc", 1, "200 abc" },
        { "HTTP/1.1 200 OK\r\nX: y\r\n\r\nabc", 0, "" },
        { "HTTP/1.1 200 OK\r\nXContent-Length: 1\r\nContent-Lengthy: 1\r\n\r\nabc", 1, "200 abc" },
        { "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", 0, "" },
        { "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", 1, "the body is cut: 3 of 4 bytes" },
        { "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc", 1, "Content-Length is \"-1\"" },
        { "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nabc", 1, "Content-Length is \"99999999999999999999\"" },
        { "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nabc", 1, "Content-Length is \"\"" },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", 0, "200 abcde" },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n", 0, "" },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n", 1, "the body is cut in its chunks" },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nabc\r\n0\r\n\r\n", 0, "a chunk without a size" },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffff\r\nabc\r\n0\r\n\r\n", 0, "a chunk without a size" },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0xffffffffffffffff\r\nX0\r\n\r\n", 0, "a chunk without a size" },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", 0, "a chunk without a size" },
        { "HTTP/1.1 200 OK\r\nContent-Le", 1, "the answer is cut in its head" },
        { "HTTP/1.1 200 OK\r\nContent-Le", 0, "" }, { "", 0, "" }, { "", 1, "the answer is cut in its head" },
        { "SSH-2.0-x\r\n\r\n", 1, "it is no HTTP response" }, { "HTTP/1.1 20 OK\r\n\r\n", 1, "it is no HTTP response" },
        { "HTTP/1.1 099 OK\r\n\r\n", 1, "it is no HTTP response" }, { "HTTP/1.1 2x0 OK\r\n\r\n", 1, "it is no HTTP response" },
        { "\r\n", 1, "it is no HTTP response" }, { "HTTP/1.1\r\n\r\n", 1, "it is no HTTP response" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t len = strlen(cases[i].m);
        char *m = exact(cases[i].m, len), why[WHY_MAX], got[600];
        struct http h;
        int r = http_decode(m, len, cases[i].ended, &h, why);
        if (r) snprintf(got, sizeof got, "%d %.*s", h.status, (int)h.body_len, m + h.body);
        is(cases[i].m, cases[i].want, r ? got : why);
        for (size_t cut = 0; cut < len; cut++) {
            char *c = exact(m, cut);
            http_decode(c, cut, 0, &h, why);
            http_decode(c, cut, 1, &h, why);
            free(c);
        }
        free(m);
    }
}

/* AWS's published examples: ListUsers of IAM, and get-vanilla of its test suite. */
static void signatures(void)
{
    static const struct creds c = { .id = "AKIDEXAMPLE", .secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" };
    static const char empty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    char canonical[512], out[512];
    snprintf(canonical, sizeof canonical, "GET\n/\nAction=ListUsers&Version=2010-05-08\ncontent-type:application/x-www-form-urlencoded; charset=utf-8\n"
        "host:iam.amazonaws.com\nx-amz-date:20150830T123600Z\n\ncontent-type;host;x-amz-date\n%s", empty);
    sigv4(&c, "20150830T123600Z", "us-east-1", "iam", canonical, "content-type;host;x-amz-date", out);
    is("ListUsers", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, SignedHeaders=content-type;host;x-amz-date, "
        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7", out);
    snprintf(canonical, sizeof canonical, "GET\n/\n\nhost:example.amazonaws.com\nx-amz-date:20150830T123600Z\n\nhost;x-amz-date\n%s", empty);
    sigv4(&c, "20150830T123600Z", "us-east-1", "service", canonical, "host;x-amz-date", out);
    is("get-vanilla", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, "
        "Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", out);
}

static void texts(void)
{
    static const struct { const char *text; int good; } utf[] = {
        { "abc", 1 }, { "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 1 }, { "\xff", 0 }, { "\xc3", 0 }, { "\xc0\x80", 0 }, { "\xe0\x80\x80", 0 },
        { "\xed\xa0\x80", 0 }, { "\xf0\x80\x80\x80", 0 }, { "\xf4\x90\x80\x80", 0 }, { "\x80", 0 }, { "a\xe2\x82", 0 }, { "\xf4\x8f\xbf\xbf", 1 } };
    char out[64];
    for (size_t i = 0; i < COUNT(utf); i++) is_n("UTF-8", utf[i].good, is_utf8(utf[i].text));
    is("quoted", "a\\u0022\\u005c\\u000a\xc3\xa9", json_quote("a\"\\\n\xc3\xa9", out));
}

static void json(void)
{
    static const struct { const char *text, *path, *want; } cases[] = {
        { "{\"a\":\"x\"}", "a", "x" }, { " { \"a\" : \"x\" , \"b\" : \"y\" } ", "b", "y" }, { "{\"a\":{\"b\":{\"c\":\"z\"}}}", "a/b/c", "z" },
        { "{\"z\":[1,-2.5e+3,true,false,null,{\"a\":\"no\"}],\"a\":\"x\"}", "a", "x" }, { "{\"a\":\"1\",\"a\":\"2\"}", "a", "1" },
        { "{\"a\":\"\\u0041\\u00e9\\u20ac\\ud83d\\ude00\\n\\/\\\\\\\"\"}", "a", "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\n/\\\"" },
        { "{\"\\u0061\":\"x\"}", "a", "x" }, { "{\"a\":\"\"}", "a", "" }, { "{\"b\":{},\"c\":[],\"a\":\"x\"}", "a", "x" },
        { "{}", "a", NULL }, { "", "a", NULL }, { "[]", "a", NULL }, { "{\"a\":1}", "a", NULL }, { "{\"a\":\"x\"", "b", NULL },
        { "{\"a\":\"\\ud83d\"}", "a", NULL }, { "{\"a\":\"\\ude00\"}", "a", NULL }, { "{\"a\":\"\\u0000\"}", "a", NULL }, { "{\"a\":\"\\x\"}", "a", NULL },
        { "{\"a\":\"\\ud83d\\u0041\"}", "a", NULL }, { "{\"a\":\"x\ny\"}", "a", NULL }, { "{\"a\":\"x", "a", NULL }, { "{\"a\":\"x\\", "a", NULL },
        { "{\"a\" \"x\"}", "a", NULL }, { "{a:\"x\"}", "a", NULL }, { "{\"b\":\"x\" \"a\":\"y\"}", "a", NULL }, { "{\"a\":{\"b\":\"x\"}}", "a/c", NULL },
        { "{\"a\":\"0123456789012345\"}", "a", NULL }, { "{\"a\":\"012345678901234\"}", "a", "012345678901234" },
        { "{\"b\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]],\"a\":\"x\"}", "a", NULL },
        { "{\"b\":[1,],\"a\":\"x\"}", "a", NULL }, { "{\"b\":?,\"a\":\"x\"}", "a", NULL }, { "{\"abc\":\"x\",\"ab\":\"y\"}", "ab", "y" },
    };
    static const struct { const char *text, *local, *external; } regs[] = {
        { "{\"local_addr\":\"1.2.3.4:5\",\"external_addr\":\"6.7.8.9:10\"}", "1.2.3.4:5", "6.7.8.9:10" },
        { "{\"external_addr\":\"[2001:db8::1]:10\",\"more\":{},\"local_addr\":\"127.0.0.1:5\"}", "127.0.0.1:5", "[2001:db8::1]:10" },
        { "{\"local_addr\":\"0.0.0.0:5\",\"external_addr\":\"6.7.8.9:10\"}", "", "6.7.8.9:10" },
        { "{\"local_addr\":\"1.2.3.4:0\",\"external_addr\":\"224.0.0.1:10\"}", "", "" },
        { "{\"local_addr\":\"localhost:1\"}", "", "" }, { "1.2.3.4:5", "", "" }, { "", "", "" },
        { "{\"local_addr\":\"1.2.3.4:5\",\"external_addr\":{}}", "1.2.3.4:5", "" } };
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t len = strlen(cases[i].text);
        char *m = exact(cases[i].text, len), out[32];
        memset(out, 0x55, sizeof out);
        is(cases[i].text, cases[i].want ? cases[i].want : "(none)", json_find(m, len, cases[i].path, out, strlen(cases[i].text) > 200 ? 32 : cases[i].want && strlen(cases[i].want) > 15 ? 32 : 16) ? out : "(none)");
        for (size_t cut = 0; cut < len; cut++) { char *c = exact(m, cut); json_find(c, cut, cases[i].path, out, sizeof out); free(c); }
        free(m);
    }
    for (size_t i = 0; i < COUNT(regs); i++) {
        size_t len = strlen(regs[i].text);
        char *m = exact(regs[i].text, len);
        struct addr l = registration_get(m, len, "local_addr"), e = registration_get(m, len, "external_addr");
        is(regs[i].text, regs[i].local, l.port ? SHOW(&l) : "");
        is(regs[i].text, regs[i].external, e.port ? SHOW(&e) : "");
        free(m);
    }
}

static void names(void)
{
    char name[3 * NAME_LEN + 1], key[NAME_LEN + 1];
    static const struct { const char *key, *want; } cases[] = {
        { "k-1_a.Z9", "k-1_a.Z9" }, { "..", "%2E." }, { ".", "%2E" }, { "a/b", "a%2Fb" }, { "%41", "%2541" }, { "\xff \n", "%FF%20%0A" }, { "a..b", "a..b" } };
    for (size_t i = 0; i < COUNT(cases); i++) { key_to_name(cases[i].key, name); is(cases[i].key, cases[i].want, name); }
    memset(key, 'a', NAME_LEN); key[NAME_LEN] = 0;
    key_to_name(key, name);
    is("255 letters", key, name);
    key[0] = '/';
    key_to_name(key, name);
    is_n("hashed", 66, (long)strlen(name));
    is_n("hashed", 0, strncmp(name, "%-", 2));
}

static void hello(void)
{
    struct stream a = { .sends = 1, .key = "k", .me = 1, .peer = 70000 }, b = { .key = "k", .me = 70000, .peer = 1 };
    unsigned char m[HELLO], again[HELLO];
    char why[WHY_MAX], text[41];
    hello_encode(&a, m);
    hex(m, 20, text);
    is("HELLO", "504153484c4942310100000000000001" "00011170", text);
    hello_encode(&a, again);
    is_n("the nonce is fresh", 1, memcmp(m + 20, again + 20, 16) != 0);
    is_n("mirrored", 1, hello_check(&b, m, why));
    is_n("not mirrored", 0, hello_check(&a, m, why));
    is("not mirrored", "it is node 1 and wants node 70000", why);
    for (int i = 0; i < 20; i++) {
        m[i] ^= 0x80;
        is_n("one bit", 0, hello_check(&b, m, why));
        m[i] ^= 0x80;
    }
    m[8] = 2;
    is_n("role 2", 1, hello_check(&b, m, why));
    m[8] = 0;
    is_n("role 0", 0, hello_check(&b, m, why));
}

/* The frame reader, fed in pieces of every size, must see the same. */
static void frames(void)
{
    unsigned char in[64], out[64];
    size_t len = 0;
    put(in, 4, 3); memcpy(in + 4, "abc", 3); put(in + 7, 4, 5); memcpy(in + 11, "defgh", 5); put(in + 16, 4, 0); put(in + 20, 8, 8); len = 28;
    for (size_t piece = 1; piece <= len; piece++) {
        int fd[2]; struct frames f = { .left = 0 }; size_t got = 0;
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd)) return;
        set_nonblocking(fd[0]);
        for (size_t at = 0; at < len && !f.ended; at += piece) {
            (void)!write(fd[1], in + at, piece < len - at ? piece : len - at);
            for (int i = 0; i < 40 && !f.ended; i++) { ssize_t n = frames_read(&f, fd[0], out + got, 2); if (n > 0) got += (size_t)n; }
        }
        out[got] = 0;
        is("frames", "abcdefgh", (char *)out);
        is_n("ended", 1, f.ended);
        is_n("total", 8, (long)get(f.head + 4, 8));
        close(fd[0]); close(fd[1]);
    }
    for (int i = 0; i < 2; i++) {
        int fd[2]; struct frames f = { .left = 0 };
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd)) return;
        put(in, 4, i ? 0xffffffff : FRAME_MAX + 1);
        (void)!write(fd[1], in, 4);
        is_n("too large a frame", -1, frames_read(&f, fd[0], out, sizeof out));
        is_n("too large a frame", EPROTO, errno);
        close(fd[0]); close(fd[1]);
    }
}

int main(void)
{
    stun(); addresses(); numbers(); hashes(); signatures(); texts(); http(); json(); names(); hello(); frames();
    printf("%d of %d\n", tests - wrong, tests);
    return wrong != 0;
}
END
    for cc in gcc clang cc; do
        command -v $cc >/dev/null || { [ $cc = cc ] || skip "unit tests with $cc" "there is none"; continue; }
        case $cc in cc) flags=-O2 ;; *) flags='-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all' ;; esac
        # shellcheck disable=SC2086 # flags are words
        if ! $cc $flags -I. -o "$tmp/unit" "$tmp/unit.c" >"$tmp/out" 2>&1; then
            if [ $cc = cc ]; then fail "unit tests compile" "$(head -20 "$tmp/out")"
            else skip "unit tests with $cc and sanitizers" "they do not compile: $(grep -m1 -i -e error -e 'not found' "$tmp/out")"; fi
            continue
        fi
        run "$tmp/unit"
        is "unit tests with $cc $flags: $(tail -1 "$tmp/out")" 0 $status
        [ $status = 0 ] || cat "$tmp/out" "$tmp/err"
    done
}

# ---- building ----

t_build() {
    W='-O2 -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wvla -Werror'
    # shellcheck disable=SC2086 # flags are words
    for cc in gcc clang; do
        need "$cc -Wall ..." $cc || continue
        run $cc $W -o "$tmp/x" pashlib.c
        is "no warnings from $cc" "0 " "$status $(head -3 "$tmp/err")"
        run $cc $W -std=c99 -pedantic -o "$tmp/x" pashlib.c
        is "no warnings from $cc -std=c99 -pedantic" "0 " "$status $(head -3 "$tmp/err")"
    done
    if need 'tcc' tcc; then
        run tcc -o "$tmp/x" pashlib.c
        run "$tmp/x" --version
        is 'tcc builds it' "0 pashlib $(sed -n 's/#define VERSION "\(.*\)"/\1/p' pashlib.c)" "$status $(cat "$tmp/out")"
    fi
    if need 'musl' musl-gcc; then
        run musl-gcc -O2 -static -s -o "$tmp/x" pashlib.c
        run "$tmp/x" --version
        is 'musl-gcc -static builds it' 0 $status
    fi
    if need 'make layer' zip musl-gcc; then
        cp -r Makefile pashlib.c "$tmp"
        run make -C "$tmp" layer
        is 'make layer' "0 pashlib" "$status $(python3 -m zipfile -l "$tmp/pashlib-layer.zip" 2>/dev/null | awk 'NR > 1 { print $1 }')"
        is 'the static binary is at most 150 KB' 1 "$(($(wc -c <"$tmp/pashlib") <= 153600))"
    fi
    run cc -O2 -U__linux__ -o "$tmp/portable" pashlib.c
    is 'the portable paths compile' '0 ' "$status $(head -3 "$tmp/err")"
    is 'pashlib.c is short enough to be read' 1 "$(($(wc -l <pashlib.c) <= 2400))"
    is 'no line is wider than 100' '' "$(awk 'length > 100 { print FNR }' pashlib.c)"
    is 'top level is what was asked for' 'Makefile README pashlib.c test.sh' \
        "$(find . -maxdepth 1 -type f ! -name '.*' ! -name pashlib | sed 's|./||' | sort | tr '\n' ' ' | sed 's/ $//')"
    if need shellcheck shellcheck; then
        run shellcheck test.sh .ci/run
        is 'shellcheck has nothing to say' '0 ' "$status $(head -20 "$tmp/out")"
    fi
}

# ---- command line and settings ----

t_cli() {
    while IFS='|' read -r args want; do
        # shellcheck disable=SC2086 # words
        run $P $args
        is "exit 2: pashlib $args" 2 $status
        has "says why: pashlib $args" "$tmp/err" "^pashlib: .*$want"
        is "nothing on standard output: pashlib $args" '' "$(cat "$tmp/out")"
        is "one line: pashlib $args" 1 "$(wc -l <"$tmp/err")"
    done <<'END'
|no stream is named
send k 1 1|send k: ME and PEER are both 1
send k 01 1|send k: ME and PEER are both 1
send k 1|send takes KEY ME PEER
send k 1 2 p q|send takes KEY ME PEER
send k x 1|ME is "x": want a number, 0 to 2147483647
send k 1 2147483648|PEER is "2147483648": want a number
send k -1 1|ME is "-1"
send*k*1*2|"send\*k\*1\*2" is no (send|recv)\*KEY\*ME\*PEER\*PATH
send*k*1*2*|send k: PATH is empty
send**1*2*p|KEY is "": want 1 to 255 bytes
copy*k*1*2*p|"copy" is not send or recv
copy|"copy" is no (send|recv)
send*k*1*2*p send*k*01*3*q|KEY "k" and node 1 come twice
send*k*1*2*p recv*k*1*2*q|KEY "k" and node 1 come twice
send*k*1*2*- send*l*1*2*-|two streams share standard input
recv*k*1*2*- recv*l*1*2*-|two streams share standard output
addr x|addr stands alone
--nonsense|"--nonsense" is no
END
    run $P "send*$(printf '%0256d' 0)*1*2*p"
    is 'KEY of 256 bytes' 2 $status
    run $P send 'a*b' 1 2 p
    is 'KEY with a star' 2 $status
    run $P "$(printf 'send*a\033[31m\302\233b\177c*1*1*p')"
    has 'control characters are escaped' "$tmp/err" '^pashlib: send a\\x1b\[31m\\xc2\\x9bb\\x7fc: ME and'
    run $P --help
    is '--help' 0 $status
    is '--help: 40 lines' 1 "$(($(wc -l <"$tmp/out") <= 40))"
    is '--help: 80 columns' '' "$(awk 'length > 80' "$tmp/out")"
    sed -n 's/^    ROW("\([A-Z0-9_]*\)".*/\1/p' pashlib.c >"$tmp/names"
    while read -r name; do
        has "--help has $name" "$tmp/out" "$name"
        has "README has $name" README "^  $name  *"
    done <"$tmp/names"
    sed -n 's/^    ROW("\([A-Z0-9_]*\)", "\([^"]*\)".*/\1 \2/p' pashlib.c | while read -r name dflt; do
        if ! grep -A1 "^  $name" README | grep -qF -e "$dflt"; then echo "$name $dflt"; fi
    done >"$tmp/out"
    is 'README has the defaults' '' "$(cat "$tmp/out")"
    run $P --version
    is '--version' '0 pashlib 1.0' "$status $(cat "$tmp/out")"
    run env PASH_LOG=bad $P --version
    is '--version reads no settings' 0 $status
    run sh -c "$P --help >/dev/full"
    is '--help to a full disk' 1 $status
    run sh -c "$P addr >/dev/full"
    is 'addr to a full disk' 1 $status
    has 'addr to a full disk' "$tmp/err" 'standard output: No space left'
    run sh -c "$P addr >&-"
    is 'addr to nowhere' 1 $status
    run sh -c "{ sleep 0.2; $P addr; echo \$? >$tmp/rc; } | { exec <&-; sleep 0.5; }"
    is 'addr to a reader that has gone' 1 "$(cat "$tmp/rc")"
    run sh -c "$P addr 2>&-"
    is 'addr with standard error closed' '0 source=PASH_PUBLIC_IP' "$status $(grep source "$tmp/out")"
    run sh -c "$P addr 2>/dev/full"
    is 'addr with standard error full' '0 source=PASH_PUBLIC_IP' "$status $(grep source "$tmp/out")"
    run env -u PASH_PUBLIC_IP $P addr
    is 'addr' 0 $status
    eval "$(cat "$tmp/out")"
    # shellcheck disable=SC2154 # set by eval
    is 'addr is fit for eval' "local $local_addr" "$source $external_addr"
    run env PASH_PUBLIC_ADDR=203.0.113.7:40000 $P addr
    is 'PASH_PUBLIC_ADDR' "local_addr=127.0.0.1:40000 external_addr=203.0.113.7:40000 source=PASH_PUBLIC_ADDR" "$(tr '\n' ' ' <"$tmp/out" | sed 's/ $//')"
    run env 'PASH_PUBLIC_ADDR=[2001:db8::7]:40000' $P addr
    has 'PASH_PUBLIC_ADDR, IPv6' "$tmp/out" '^external_addr=\[2001:db8::7\]:40000$'
    run env PASH_PUBLIC_IP=2001:db8::7 $P addr
    has 'PASH_PUBLIC_IP, IPv6' "$tmp/out" '^external_addr=\[2001:db8::7\]:[1-9]'
    run env PASH_LOG=error $P addr
    is 'PASH_LOG=error is quiet' '0 ' "$status $(cat "$tmp/err")"
    run env PASH_LOG=debug $P addr
    has 'PASH_LOG=debug shows calls' "$tmp/err" 'connect('
}

t_settings() {
    while IFS='|' read -r name value want; do
        run env "$name=$value" $P addr
        is "$name=$value: exit 2" "2 " "$status $(cat "$tmp/out")"
        has "$name=$value: says so" "$tmp/err" "^pashlib: $name is \"$(printf %s "$value" | sed 's/[][*.]/\\&/g')\": $want"
    done <<'END'
PASH_STUN_TIMEOUT_MS|8s|want milliseconds, 0 to 86400000
PASH_STUN_TIMEOUT_MS|-1|want milliseconds
PASH_STUN_TIMEOUT_MS|86400001|want milliseconds
PASH_PEER_TIMEOUT_MS| 1|want milliseconds
PASH_CONNECT_TIMEOUT_MS|1.5|want milliseconds
PASH_PUBLIC_ADDR|203.0.113.7|want IP:PORT
PASH_PUBLIC_ADDR|203.0.113.7:70000|want IP:PORT
PASH_PUBLIC_ADDR|203.0.113.7:0|want IP:PORT
PASH_PUBLIC_ADDR|host:80|want IP:PORT
PASH_PUBLIC_ADDR|0.0.0.0:80|want IP:PORT
PASH_PUBLIC_ADDR|2001:db8::7:80|want IP:PORT
PASH_PUBLIC_IP|0.0.0.0|want the IP
PASH_PUBLIC_IP|224.0.0.1|want the IP
PASH_PUBLIC_IP|203.0.113|want the IP
PASH_PUBLIC_IP|203.0.113.7:80|want the IP
PASH_STUN_SERVER|a b|"a b" is no host name
PASH_STUN_SERVER|a,|want \[udp:|tcp:\]HOST
PASH_STUN_SERVER|,a|want \[udp:|tcp:\]HOST
PASH_STUN_SERVER|a:0|"a:0" is no HOST
PASH_STUN_SERVER|a:99999|"a:99999" is no HOST
PASH_STUN_SERVER|300.1.1.1|"300.1.1.1" is no host name
PASH_STUN_SERVER|0.0.0.0:3478|0.0.0.0 is not the address of one host
PASH_STUN_SERVER|tcp:|"" is no HOST or HOST:PORT
PASH_STUN_SERVER|a,b,c,d,e,f,g,h,i|want at most 8 servers
PASH_RENDEZVOUS|/tmp/x|want dir:PATH or dynamodb:TABLE
PASH_RENDEZVOUS|dir:|want a PATH
PASH_RENDEZVOUS|dynamodb:|want a TABLE
PASH_RENDEZVOUS|dynamodb:ab|want a TABLE of 3 to 255
PASH_RENDEZVOUS|dynamodb:a b c|want a TABLE
AWS_ENDPOINT_URL|dynamodb.us-east-1.amazonaws.com|want http://HOST
AWS_ENDPOINT_URL_DYNAMODB|ftp://x|want http://HOST
AWS_REGION|us east|want printable ASCII
AWS_ACCESS_KEY_ID|a b|want printable ASCII
PASH_LOG|loud|want error, info or debug
AWS_EC2_METADATA_SERVICE_ENDPOINT|https://169.254.169.254|want http://HOST
AWS_EC2_METADATA_SERVICE_ENDPOINT|169.254.169.254|want http://HOST
AWS_EC2_METADATA_SERVICE_ENDPOINT|http://|"" is no HOST
AWS_EC2_METADATA_SERVICE_ENDPOINT|http://a:b/|"a:b" is no HOST
AWS_EC2_METADATA_SERVICE_ENDPOINT|http://u@h/|"u@h" is no host name
END
    run env PASH_LOG=loud PASH_STUN_TIMEOUT_MS=x $P addr
    is 'all wrong settings are named' 2 "$(grep -c ' is "' "$tmp/err")"
    run env PASH_LOG=loud $P send k 1 1
    is 'a wrong setting is wrong for send too' 2 $status
    run env PASH_PUBLIC_ADDR= PASH_PUBLIC_IP= PASH_STUN_SERVER= PASH_LOG= PASH_RENDEZVOUS= PASH_STUN_TIMEOUT_MS= $P addr
    is 'empty is as good as none' '0 source=local' "$status $(grep source "$tmp/out")"
    for v in 1 true yes x; do
        run env PASH_NO_HOLEPUNCH=$v $P addr
        has "PASH_NO_HOLEPUNCH=$v" "$tmp/err" 'STUN discovery failed: skipped (PASH_NO_HOLEPUNCH)'
    done
    for v in 0 false ''; do
        run env PASH_NO_HOLEPUNCH=$v PASH_STUN_TIMEOUT_MS=0 $P addr
        has "PASH_NO_HOLEPUNCH=$v" "$tmp/err" 'STUN discovery failed: skipped (PASH_STUN_TIMEOUT_MS=0)'
    done
    for v in AWS_REGION AWS_DEFAULT_REGION; do
        run env -u PASH_RENDEZVOUS $v=us-east-1 AWS_ENDPOINT_URL=http://127.0.0.1:9 $P send k 1 2
        is "$v: the rendezvous is DynamoDB" 1 $status
        has "$v: the rendezvous is DynamoDB, told" "$tmp/err" '^pashlib: rendezvous dynamodb:rdv (us-east-1)$'
    done
    while IFS='|' read -r words want; do
        # shellcheck disable=SC2086 # words
        run env PASH_RENDEZVOUS=dynamodb:rdv AWS_REGION=us-east-1 AWS_ENDPOINT_URL=http://127.0.0.1:9 $words $P send k 1 2
        is "DynamoDB, $words: exit 2" 2 $status
        has "DynamoDB, $words: told" "$tmp/err" "^pashlib: .*$want"
    done <<'END'
AWS_REGION=|neither AWS_REGION nor AWS_DEFAULT_REGION is set
AWS_ENDPOINT_URL_DYNAMODB=https://dynamodb.us-east-1.amazonaws.com|endpoint https://dynamodb.us-east-1.amazonaws.com: .*http://
AWS_ENDPOINT_URL=https://127.0.0.1|endpoint https://127.0.0.1: .*http://
AWS_ENDPOINT_URL= AWS_REGION=us-iso-east-1|region us-iso-east-1: set AWS_ENDPOINT_URL_DYNAMODB
AWS_ENDPOINT_URL= AWS_REGION=eusc-de-east-1|region eusc-de-east-1: set AWS_ENDPOINT_URL_DYNAMODB
AWS_ENDPOINT_URL= AWS_REGION=a/b|region a/b is none
AWS_ACCESS_KEY_ID=AKID|AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: only the former is set
AWS_SECRET_ACCESS_KEY=s|AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: only the latter is set
END
    run env PASH_RENDEZVOUS=dynamodb:rdv AWS_REGION=us-east-1 $P send "$(printf 'k\377')" 1 2
    is 'a KEY that is not UTF-8' 2 $status
    run env AWS_ENDPOINT_URL=https://127.0.0.1 $P addr
    is 'an https:// endpoint where DynamoDB is not used' 0 $status
    run env "AWS_SESSION_TOKEN=$(printf 'hush\r')" $P addr
    is 'a token with a control character' 2 $status
    hasnt 'and it is not shown' "$tmp/err" hush
    for region in us-east-1:amazonaws.com cn-north-1:amazonaws.com.cn; do
        run env PASH_RENDEZVOUS=dynamodb:rdv AWS_REGION=${region%:*} AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b $P send k 1 2
        has "the endpoint in ${region%:*}" "$tmp/err" "send k: rendezvous dynamodb:rdv (${region%:*}): name look-up of dynamodb.${region%:*}.${region#*:}: "
    done
    run env -u PASH_RENDEZVOUS PASH_PEER_TIMEOUT_MS=300 $P send k 1 2
    has 'the default rendezvous' "$tmp/err" "node 2 did not register at dir:$tmp/pashlib-$(id -u) within 0.3 s"
}

# ---- discovery ----

stun_port() { awk -v m="$1" '$1 == m { print $2 }' "$tmp/stun"; }
imds_port() { awk -v m="$1" '$1 == m { print $2 }' "$tmp/imds"; }
addr() {                                            # SETTING...: pashlib addr with STUN
    run env -u PASH_NO_HOLEPUNCH -u PASH_PUBLIC_IP "$@" $P addr
}

t_stun() {
    if need 'coturn' turnserver; then
        bg coturn turnserver -n --stun-only --no-cli --no-tls --no-dtls -L 127.0.0.1 -L ::1 -p 3478 \
            --no-stdout-log --log-file=/dev/null --pidfile "$tmp/turn"
        asked() { addr PASH_STUN_SERVER=127.0.0.1; grep -q source=stun "$tmp/out"; }
        until_true asked
        is 'coturn' '0 127.0.0.1' "$status $(sed -n 's/^external_addr=\(.*\):.*/\1/p' "$tmp/out")"
        is 'coturn sees the port that TCP has' "$(sed -n 's/^local_addr=//p' "$tmp/out")" "$(sed -n 's/^external_addr=//p' "$tmp/out")"
        has 'STUN discovery succeeded' "$tmp/err" '^pashlib: STUN discovery succeeded - local_addr: 127.0.0.1:[0-9]* external_addr: 127.0.0.1:[0-9]*$'
        addr 'PASH_STUN_SERVER=udp:[::1]:3478'
        has 'coturn over IPv6' "$tmp/out" '^external_addr=\[::1\]:[0-9]*$'
        addr PASH_STUN_SERVER=localhost
        has 'a name, its port 3478' "$tmp/out" '^source=stun$'
        addr PASH_STUN_SERVER=127.0.0.1,udp:localhost:3478
        is 'one server by two names: no mapping' 0 "$(grep -c mapping "$tmp/out")"
        addr 'PASH_STUN_SERVER=127.0.0.1,[::1]:3478'
        is 'IPv4 and IPv6 do not compare' 0 "$(grep -c mapping "$tmp/out")"
        addr PASH_STUN_SERVER=tcp:127.0.0.1
        is 'coturn over TCP' '0 stun' "$status $(sed -n 's/^source=//p' "$tmp/out")"
        is 'coturn over TCP sees the port of the stream' "$(sed -n 's/^local_addr=//p' "$tmp/out")" "$(sed -n 's/^external_addr=//p' "$tmp/out")"
        addr 'PASH_STUN_SERVER=tcp:[::1]:3478,tcp:localhost'
        has 'coturn over TCP, IPv6' "$tmp/out" '^external_addr=\[::1\]:[0-9]*$'
        addr PASH_PUBLIC_ADDR=203.0.113.7:41000 PASH_STUN_SERVER=127.0.0.1
        is 'PASH_PUBLIC_ADDR gives the first port, STUN the address' 'local_addr=127.0.0.1:41000 external_addr=127.0.0.1:41000 source=stun ' "$(tr '\n' ' ' <"$tmp/out")"
        stop coturn
    fi
    python 'STUN servers that lie' || return
    bg stun python3 "$tmp/stun.py" "$tmp/stun"
    until_true test -f "$tmp/stun"
    while read -r mode want; do
        addr PASH_STUN_TIMEOUT_MS=2500 "PASH_STUN_SERVER=127.0.0.1:$(stun_port "$mode")"
        is "STUN, $mode: exit 0" 0 $status
        has "STUN, $mode" "$tmp/out" "^external_addr=$want\$"
    done <<'END'
good 198.51.100.7:4242
mapped 198.51.100.7:4242
ipv6 \[2001:db8::9\]:4242
forged 198.51.100.7:4242
late 198.51.100.7:4242
lose1 198.51.100.7:4242
lose2 198.51.100.7:4242
END
    for mode in good mapped ipv6 forged pieces late; do
        addr "PASH_STUN_SERVER=tcp:127.0.0.1:$(stun_port $mode)"
        want=198.51.100.7:4242
        [ $mode = ipv6 ] && want='\[2001:db8::9\]:4242'
        has "STUN over TCP, $mode" "$tmp/out" "^external_addr=$want\$"
    done
    for mode in wrongid wrongcookie unspec noaddr silent; do
        addr PASH_STUN_TIMEOUT_MS=150 "PASH_STUN_SERVER=tcp:127.0.0.1:$(stun_port $mode)"
        has "STUN over TCP, $mode: the wait goes on" "$tmp/err" "^pashlib: STUN discovery failed: tcp:127.0.0.1:$(stun_port $mode): no answer within 150 ms\$"
    done
    while read -r mode reason; do
        addr "PASH_STUN_SERVER=tcp:127.0.0.1:$(stun_port "$mode")"
        has "STUN over TCP, $mode" "$tmp/err" "^pashlib: STUN discovery failed: tcp:127.0.0.1:$(stun_port "$mode"): $reason\$"
    done <<'END'
huge Message too long
half Connection reset by peer
error error 420 Un\\x1b\[31mknown
END
    addr PASH_STUN_SERVER=tcp:127.0.0.1:9
    has 'nobody listens' "$tmp/err" '^pashlib: STUN discovery failed: tcp:127.0.0.1:9: Connection refused$'
    addr "PASH_STUN_SERVER=127.0.0.1:$(stun_port other),tcp:127.0.0.1:$(stun_port late)"
    has 'TCP is preferred within the head start' "$tmp/out" '^external_addr=198.51.100.7:4242$'
    is 'UDP and TCP do not compare' 0 "$(grep -c mapping "$tmp/out")"
    addr "PASH_STUN_SERVER=127.0.0.1:$(stun_port good),tcp:127.0.0.1:$(stun_port silent)"
    has 'TCP is silent' "$tmp/out" '^external_addr=198.51.100.7:4242$'
    has 'TCP is silent: told' "$tmp/err" '^pashlib: no tcp: server answered in time: TCP may have another address$'
    addr "PASH_STUN_SERVER=tcp:127.0.0.1:$(stun_port good),tcp:127.0.0.1:$(stun_port other)"
    has 'servers that differ, over TCP' "$tmp/out" '^mapping=endpoint-dependent$'
    has 'one request over TCP' "$tmp/stun.log" '^tcp-late [0-9.]* 000100002112a442[0-9a-f]\{24\} '
    is 'and no other' '' "$(grep '^tcp-.* after [1-9]' "$tmp/stun.log")"
    rm -rf "$tmp/rdv"
    mkfifo "$tmp/fifo"
    bg S env -u PASH_NO_HOLEPUNCH PASH_STUN_SERVER="tcp:127.0.0.1:$(stun_port mapped)" $P send k 1 2 "$tmp/fifo"
    until_true test -f "$tmp/rdv/k/N_1"
    over=$(grep -c '^tcp-mapped over' "$tmp/stun.log")
    has 'registered as the server saw it' "$tmp/rdv/k/N_1" '"external_addr":"198.51.100.7:4242"'
    is 'from the port of the stream' "$(sed 's/.*local_addr":"127.0.0.1:\([0-9]*\)".*/\1/' "$tmp/rdv/k/N_1")" "$(sed -n 's/^tcp-mapped .* \([0-9]*\)$/\1/p' "$tmp/stun.log" | tail -n 1)"
    sleep 0.3
    is 'the connection to the server stays' "$over" "$(grep -c '^tcp-mapped over' "$tmp/stun.log")"
    bg R $P recv k 2 1
    closed() { [ "$(grep -c '^tcp-mapped over' "$tmp/stun.log")" = $((over + 1)) ]; }
    until_true closed
    is 'and goes once the stream is connected' 0 $?
    echo data >"$tmp/fifo"
    both 'a stream with STUN over TCP' '0 0'
    is 'what it carried' data "$(cat "$tmp/R.out")"
    rm "$tmp/fifo"
    bg S env -u PASH_NO_HOLEPUNCH PASH_STUN_SERVER="tcp:127.0.0.1:$(stun_port brief)" $P send k 1 2 /dev/null
    until_true grep -q 'send k: the STUN server closed the connection that kept 198.51.100.7:4242: the NAT may give another port now' "$tmp/S.err"
    is 'a server that does not keep the connection: told' 0 $?
    bg R $P recv k 2 1
    both 'a server that does not keep the connection' '0 0'
    for i in 1 2 3; do
        addr PASH_PUBLIC_ADDR=127.0.0.9:5000 "PASH_STUN_SERVER=tcp:127.0.0.1:$(stun_port good)"
        has "the same port again, at once: $i" "$tmp/out" '^source=stun$'
        is "the same port: $i" 127.0.0.1:5000 "$(sed -n 's/local_addr=//p' "$tmp/out")"
    done
    for mode in wrongid wrongcookie badlen cutattr unspec port0 multicast errid silent othersock noaddr; do
        addr PASH_STUN_TIMEOUT_MS=150 "PASH_STUN_SERVER=127.0.0.1:$(stun_port $mode)"
        has "STUN, $mode: the wait goes on" "$tmp/err" "^pashlib: STUN discovery failed: 127.0.0.1:$(stun_port $mode): no answer within 150 ms\$"
        has "STUN, $mode: local" "$tmp/out" '^source=local$'
    done
    addr PASH_STUN_SERVER="127.0.0.1:$(stun_port error)"
    has 'STUN error: its code and reason, escaped' "$tmp/err" '^pashlib: STUN discovery failed: 127.0.0.1:[0-9]*: error 420 Un\\x1b\[31mknown$'
    addr PASH_STUN_SERVER=127.0.0.1:9
    has 'nobody listens' "$tmp/err" '^pashlib: STUN discovery failed: 127.0.0.1:9: Connection refused$'
    addr PASH_STUN_SERVER="127.0.0.1:9,127.0.0.1:$(stun_port good)"
    has 'one of two servers is dead' "$tmp/out" '^external_addr=198.51.100.7:4242$'
    is 'one of two servers is dead: no mapping' 0 "$(grep -c mapping "$tmp/out")"
    addr PASH_STUN_SERVER="127.0.0.1:9,127.0.0.1:$(stun_port error)"
    has 'each server has its reason' "$tmp/err" 'failed: 127.0.0.1:9: Connection refused; 127.0.0.1:[0-9]*: error 420'
    addr PASH_STUN_SERVER="127.0.0.1:$(stun_port other),127.0.0.1:$(stun_port good)"
    has 'servers that differ' "$tmp/out" '^mapping=endpoint-dependent$'
    addr PASH_STUN_SERVER="127.0.0.1:$(stun_port good),127.0.0.1:$(stun_port lose1)"
    has 'two servers agree' "$tmp/out" '^mapping=endpoint-independent$'
    addr PASH_STUN_SERVER="127.0.0.1:$(stun_port good),127.0.0.1:$(stun_port silent)"
    is 'no second answer, no mapping' '0 0' "$status $(grep -c mapping "$tmp/out")"
    addr PASH_STUN_SERVER="127.0.0.1:$(stun_port good),127.0.0.1:$(stun_port ipv6)"
    is 'IPv4 and IPv6 do not compare' '0 0' "$status $(grep -c mapping "$tmp/out")"
    before=$(date +%s%N)
    addr PASH_STUN_TIMEOUT_MS=50 PASH_STUN_SERVER="127.0.0.1:$(stun_port silent)"
    is 'a time-out below the head start is kept' 1 "$((($(date +%s%N) - before) / 1000000 < 400))"
    addr PASH_STUN_SERVER=no.such.name.invalid.
    has 'a name that ends with a dot' "$tmp/err" 'name look-up of no.such.name.invalid.: '
    addr PASH_STUN_SERVER=no.such.name.invalid
    has 'a name that is none' "$tmp/err" '^pashlib: STUN discovery failed: no.such.name.invalid:3478: name look-up of no.such.name.invalid: '
    # RFC 8489's schedule: 0, 500, 1500, 3500 ms; one transaction id; 20 bytes
    before=$(grep -c '^silent' "$tmp/stun.log")
    addr PASH_STUN_TIMEOUT_MS=4200 PASH_STUN_SERVER="127.0.0.1:$(stun_port silent)"
    grep '^silent' "$tmp/stun.log" | tail -n +$((before + 1)) >"$tmp/sent"
    is 'four transmissions in 4.2 s' 4 "$(wc -l <"$tmp/sent")"
    is 'the same request each time' 1 "$(awk '{ print $3 }' "$tmp/sent" | sort -u | wc -l)"
    is 'a Binding request of 20 bytes' 1 "$(grep -c -E ' 000100002112a442[0-9a-f]{24} ' "$tmp/sent" | sed 's/4/1/')"
    is 'at 0, 500, 1500, 3500 ms' 'yes' "$(awk 'NR == 1 { t = $2 } { d = ($2 - t) * 1000; want = NR == 1 ? 0 : NR == 2 ? 500 : NR == 3 ? 1500 : 3500
        if (d < want - 20 || d > want + 900) bad = 1 } END { print bad ? "no" : "yes" }' "$tmp/sent")"
    # a stream's answer goes to its own port, all streams at once
    rm -rf "$tmp/rdv"
    bg R env -u PASH_NO_HOLEPUNCH PASH_PEER_TIMEOUT_MS=400 PASH_STUN_SERVER="127.0.0.1:$(stun_port good)" \
        $P "recv*a*1*0*$tmp/o1" "recv*b*1*0*$tmp/o2"
    until_true test -f "$tmp/rdv/b/N_1"
    is 'registered as deployments have it' '{"local_addr":"127.0.0.1:P","external_addr":"198.51.100.7:4242"}' "$(sed 's/\(127.0.0.1:\)[0-9]*/\1P/' "$tmp/rdv/b/N_1")"
    ended R
    is 'nobody came' 1 "$status"
    has 'a set of phrases for each stream' "$tmp/R.err" '^pashlib: recv a: STUN discovery succeeded'
    has 'a set of phrases for each stream' "$tmp/R.err" '^pashlib: recv b: STUN discovery succeeded'
    # a name server that never answers
    if [ -n "${PASHLIB_NS-}" ]; then
        echo 'nameserver 127.0.0.1' >"$tmp/resolv.conf"
        if mount --bind "$tmp/resolv.conf" /etc/resolv.conf 2>/dev/null; then
            bg dns python3 -c 'import socket, sys, time; s = socket.socket(2, 2); s.bind(("127.0.0.1", 53)); open(sys.argv[1], "w"); time.sleep(60)' "$tmp/dns"
            until_true test -f "$tmp/dns"
            addr PASH_STUN_TIMEOUT_MS=1200 PASH_STUN_SERVER=stun.example.net
            is 'a name server that hangs: exit 0' 0 $status
            has 'a name server that hangs' "$tmp/err" 'failed: stun.example.net:3478: no answer from the resolver within 1200 ms'
            has 'it says what it waits for' "$tmp/err" 'waiting for STUN'
            addr PASH_STUN_SERVER="stun.example.net,127.0.0.1:$(stun_port good)"
            has 'one server has no name' "$tmp/out" '^source=stun$'
            stop dns
            umount /etc/resolv.conf
        else
            skip 'a name server that hangs' 'mount --bind does not work here'
        fi
    else
        skip 'a name server that hangs' 'no namespace could be made'
    fi
}

t_imds() {
    python 'IMDS' || return
    [ -f "$tmp/imds" ] || bg imds python3 "$tmp/imds.py" "$tmp/imds"
    [ -f "$tmp/stun" ] || bg stun python3 "$tmp/stun.py" "$tmp/stun"
    until_true test -f "$tmp/imds" -a -f "$tmp/stun"
    meta() {                                        # MODE SETTING...
        meta_mode=$1
        shift
        addr -u AWS_EC2_METADATA_DISABLED AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1:$(imds_port "$meta_mode")" PASH_STUN_SERVER=127.0.0.1:9 "$@"
    }
    for mode in v2 v1 v1-404 v1-500 hang newline nolen slow; do
        meta $mode
        has "IMDS, $mode: the address" "$tmp/out" '^external_addr=198.51.100.9:[0-9]*$'
        has "IMDS, $mode: source" "$tmp/out" '^source=imds$'
        has "IMDS, $mode: phrase" "$tmp/err" '^pashlib: AWS metadata service returned public IP: 198.51.100.9$'
    done
    is 'the phrases, in order' 'STUN discovery failed: 127.0.0.1:9: Connection refused|Using fallback address resolution...|AWS metadata service returned public IP: 198.51.100.9|Fallback succeeded - local_addr: L external_addr: 198.51.100.9:P|' \
        "$(sed 's/^pashlib: //; s/local_addr: [0-9.:]*/local_addr: L/; s/100.9:[0-9]*/100.9:P/' "$tmp/err" | tr '\n' '|')"
    while IFS='|' read -r mode want; do
        meta "$mode"
        has "IMDS, $mode: reason" "$tmp/err" "^pashlib: AWS metadata query failed: .*$want"
        has "IMDS, $mode: and on" "$tmp/out" '^source=local$'
    done <<'END'
nopub|this instance has no public IPv4 address
garbage|"hello" is no public IPv4 address
cut|the body is cut: 11 of 12 bytes
cuthead|the answer is cut in its head
badlen|Content-Length is "1x"
toolong|the answer is too long
slower|in time\|no answer within 2 s
quiet|in time\|no answer within 2 s
redirect|GET public-ipv4: status 302
badtoken|its token is not ASCII
ipv6|"2001:db8::9" is no public IPv4 address
nul|"198.51.100.9" is no public IPv4 address
unspec|"0.0.0.0" is no public IPv4 address
closed|cut in its head\|reset
put400|PUT /latest/api/token: status 400
END
    meta v1 AWS_EC2_METADATA_V1_DISABLED=TRUE
    has 'IMDSv1 disabled' "$tmp/err" 'query failed: PUT /latest/api/token: status 403, and AWS_EC2_METADATA_V1_DISABLED is true'
    meta v2 AWS_EC2_METADATA_V1_DISABLED=true
    has 'IMDSv1 disabled, v2 there' "$tmp/out" '^source=imds$'
    meta v2 AWS_EC2_METADATA_DISABLED=True
    has 'IMDS disabled' "$tmp/err" 'query failed: AWS_EC2_METADATA_DISABLED is true'
    meta v2 AWS_EC2_METADATA_DISABLED=1
    has 'IMDS: 1 is not true' "$tmp/out" '^source=imds$'
    addr -u AWS_EC2_METADATA_DISABLED AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1:9/" PASH_STUN_SERVER=127.0.0.1:9
    has 'nobody there' "$tmp/err" 'AWS metadata query failed: 127.0.0.1:9: Connection refused'
    before=$(grep -c '^v2' "$tmp/imds.log")
    meta v2 PASH_PUBLIC_IP=203.0.113.5
    is 'PASH_PUBLIC_IP comes before IMDS, which is not asked' "0 source=PASH_PUBLIC_IP $before" "$status $(grep source "$tmp/out") $(grep -c '^v2' "$tmp/imds.log")"
    meta v2 PASH_PUBLIC_IP=203.0.113.5 PASH_PUBLIC_ADDR=203.0.113.6:42000
    has 'PASH_PUBLIC_ADDR comes before PASH_PUBLIC_IP' "$tmp/out" '^external_addr=203.0.113.6:42000$'
    hasnt 'nothing is said of what was not asked' "$tmp/err" 'AWS metadata'
    meta v2 PASH_STUN_SERVER="127.0.0.1:$(stun_port lose1)" PASH_STUN_TIMEOUT_MS=1400
    has 'one lost packet does not decide' "$tmp/out" '^source=stun$'
    meta v2 PASH_STUN_SERVER="127.0.0.1:$(stun_port silent)"
    has 'after the head start' "$tmp/err" 'STUN discovery failed: 127.0.0.1:[0-9]*: no answer within 750 ms'
    has 'after the head start IMDS is taken' "$tmp/out" '^source=imds$'
    meta nopub PASH_STUN_SERVER="127.0.0.1:$(stun_port silent)" PASH_STUN_TIMEOUT_MS=1500
    has 'the local address waits until STUN has given up' "$tmp/err" 'failed: 127.0.0.1:[0-9]*: no answer within 1500 ms'
    addr -u AWS_EC2_METADATA_DISABLED AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1:$(imds_port v2)" PASH_STUN_TIMEOUT_MS=0
    has 'STUN skipped, IMDS asked' "$tmp/out" '^source=imds$'
    run env -u PASH_PUBLIC_IP -u AWS_EC2_METADATA_DISABLED AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1:$(imds_port v2)" $P addr
    is 'PASH_NO_HOLEPUNCH: IMDS not asked' 'source=local 0' "$(grep source "$tmp/out") $(grep -c metadata "$tmp/err")"
    before=$(grep -c '^v2.*GET' "$tmp/imds.log")
    run env -u PASH_NO_HOLEPUNCH -u PASH_PUBLIC_IP -u AWS_EC2_METADATA_DISABLED PASH_PEER_TIMEOUT_MS=100 PASH_STUN_TIMEOUT_MS=0 \
        AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1:$(imds_port v2)" $P "recv*a*1*0*$tmp/x" "recv*b*1*0*$tmp/x" "recv*c*1*0*$tmp/x"
    is 'IMDS is asked once a process' 1 $(($(grep -c '^v2.*GET' "$tmp/imds.log") - before))
    is 'and its line comes once' '1 3' "$(grep -c 'AWS metadata' "$tmp/err") $(grep -c 'Fallback succeeded' "$tmp/err")"
}

t_ports() {
    bg R env PASH_PUBLIC_ADDR=127.0.0.1:43000 PASH_PEER_TIMEOUT_MS=3000 $P "recv*a*1*0*$tmp/x" "recv*b*1*0*$tmp/y"
    until_true test -f "$tmp/rdv/a/N_1" -a -f "$tmp/rdv/b/N_1"
    is 'each stream takes the next port' '127.0.0.1:43000 127.0.0.1:43001' "$(for k in a b; do sed 's/.*external_addr":"\(.*\)".*/\1/' "$tmp/rdv/$k/N_1"; echo; done | sort | tr '\n' ' ' | sed 's/ $//')"
    run env PASH_PUBLIC_ADDR=127.0.0.1:43000 $P addr
    has 'a second process does not get them' "$tmp/out" '^local_addr=127.0.0.1:43002$'
    kill "$(pid R)"
    ended R
    run env PASH_PUBLIC_ADDR=127.0.0.1:43000 $P addr
    has 'free again' "$tmp/out" '^local_addr=127.0.0.1:43000$'
    if python 'a port taken for UDP'; then
        bg udp python3 -c 'import socket, time; s = socket.socket(2, 2); s.bind(("0.0.0.0", 43000)); print("up", flush=True); time.sleep(30)'
        until_true grep -q up "$tmp/udp.out"
        run env PASH_PUBLIC_ADDR=127.0.0.1:43000 $P addr
        has 'a port taken for UDP is passed over' "$tmp/out" '^local_addr=127.0.0.1:43001$'
        stop udp
        bg tcp python3 -c 'import socket, time; s = socket.socket(2, 1); s.bind(("127.0.0.1", 65535)); s.listen(); print("up", flush=True); time.sleep(30)'
        until_true grep -q up "$tmp/tcp.out"
        run env PASH_PUBLIC_ADDR=127.0.0.1:65535 $P addr
        is 'no port is free' 1 $status
        has 'no port is free' "$tmp/err" '^pashlib: no port is free from 65535 (PASH_PUBLIC_ADDR) on$'
        stop tcp
    fi
}

# ---- rendezvous ----

t_rendezvous() {
    bg S $P send waits 0 1 /dev/null
    until_true test -f "$tmp/rdv/waits/N_0"
    sleep 3
    before=$(switches S)
    sleep 2
    woke=$(($(switches S) - before))
    is "waiting for a peer: woke $woke times in 2 s, 3 s after the start" 1 $((woke >= 2 && woke <= 16))
    kill "$(pid S)"
    ended S
    rm -rf "$tmp/rdv"
    bg R $P recv 'a/b' 1 0 "$tmp/x"
    until_true test -f "$tmp/rdv/a%2Fb/N_1"
    is 'PATH is ours alone' 700 "$(stat -c %a "$tmp/rdv")"
    is 'so is the directory of the key' 700 "$(stat -c %a "$tmp/rdv/a%2Fb")"
    has 'who waits says for what' "$tmp/R.err" "^pashlib: recv a/b: waiting for node 0 at dir:$tmp/rdv\$"
    is 'a registration ends with its bracket' '}' "$(tail -c 1 "$tmp/rdv/a%2Fb/N_1")"
    kill "$(pid R)"
    ended R
    is 'ended by the signal' 143 "$status"
    left_nothing 'SIGTERM'
    key=$(printf 'k%0254d' 0 | tr 0 '/')
    bg R $P recv "$key" 01 0 "$tmp/x"
    until_true test -f "$tmp/rdv/%-$(printf %s "$key" | sha256sum | cut -c1-64)/N_1"
    is 'a long key is hashed' 0 $?
    kill "$(pid R)"
    ended R
    refused() {                                     # NAME WANT
        run $P recv k 1 0 "$tmp/x"
        is "$1" 1 $status
        has "$1" "$tmp/err" "$2"
    }
    rm -rf "$tmp/rdv" "$tmp/other"
    mkdir -m 700 "$tmp/other"
    ln -s "$tmp/other" "$tmp/rdv"
    refused 'PATH is a link' "rendezvous dir:$tmp/rdv: $tmp/rdv is not a directory"
    PASH_RENDEZVOUS=dir:$tmp/rdv///
    refused 'PATH is a link, with slashes' "rendezvous dir:.*: $tmp/rdv is not a directory"
    PASH_RENDEZVOUS=dir:$tmp/rdv
    rm "$tmp/rdv"
    mkdir -m 720 "$tmp/rdv"
    refused 'PATH can be written by others' 'can be written by others'
    chmod 700 "$tmp/rdv"
    ln -s "$tmp/other" "$tmp/rdv/k"
    refused 'the directory of the key is a link' "$tmp/rdv/k is not a directory"
    rm "$tmp/rdv/k"
    mkdir -m 702 "$tmp/rdv/k"
    refused 'the directory of the key can be written by others' 'can be written by others'
    rmdir "$tmp/rdv/k"
    if [ "$(id -u)" = 0 ] && chown 12345 "$tmp/rdv" 2>/dev/null; then
        refused 'PATH belongs to another' 'belongs to another user'
        chown 0 "$tmp/rdv"
    else
        skip 'PATH belongs to another' 'only root can give a directory away'
    fi
    rm -rf "$tmp/rdv"
    echo >"$tmp/rdv"
    refused 'PATH is a file' 'is not a directory'
    rm "$tmp/rdv"
    PASH_RENDEZVOUS=dir:$tmp/no/such/place
    refused 'PATH cannot be made' "mkdir $tmp/no/such/place: No such file or directory"
    PASH_RENDEZVOUS=dir:$tmp/rdv
    # what stands in a registration's place and is none counts as absent
    mkdir -m 700 "$tmp/rdv" "$tmp/rdv/k"
    for kind in fifo link big garbage directory; do
        case $kind in
        fifo) mkfifo "$tmp/rdv/k/N_0" ;;
        link) echo '{"local_addr":"127.0.0.1:9"}' >"$tmp/reg" && ln -s "$tmp/reg" "$tmp/rdv/k/N_0" ;;
        big) printf '{"local_addr":"127.0.0.1:9","x":"%05000d"}' 0 >"$tmp/rdv/k/N_0" ;;
        garbage) head -c 300 /dev/urandom >"$tmp/rdv/k/N_0" ;;
        directory) mkdir "$tmp/rdv/k/N_0" ;;
        esac
        run env PASH_PEER_TIMEOUT_MS=300 $P recv k 1 0 "$tmp/x"
        is "a registration that is a $kind" 1 $status
        has "a registration that is a $kind counts as absent" "$tmp/err" "node 0 did not register at dir:$tmp/rdv within 0.3 s"
        rm -rf "$tmp/rdv/k/N_0"
    done
    # a registration that somebody wrote over mine stays
    bg R $P recv k 1 0 "$tmp/x"
    until_true test -f "$tmp/rdv/k/N_1"
    echo '{"local_addr":"127.0.0.1:1"}' >"$tmp/rdv/k/N_1"
    kill "$(pid R)"
    ended R
    is 'only my own registration is withdrawn' '{"local_addr":"127.0.0.1:1"}' "$(cat "$tmp/rdv/k/N_1")"
    rm -rf "$tmp/rdv"
    # two ends that begin and end at once make and remove the directory of the key against each other
    bad=0
    for i in 1 2 3 4 5 6 7 8 9 10; do
        bg S env PASH_PEER_TIMEOUT_MS=$((i * 7)) $P send race 0 1 "$tmp/no-such-file"
        run env PASH_PEER_TIMEOUT_MS=70 $P recv race 2 1 "$tmp/x"
        grep -q 'did not register' "$tmp/err" || bad=$((bad + 1))
        ended S
        grep -q 'did not register' "$tmp/S.err" || bad=$((bad + 1))
    done
    is 'a directory that comes and goes' 0 $bad
    left_nothing 'a directory that comes and goes'
}

# The DynamoDB rendezvous, against dynalite, through proxies that sign each request again; see .ci/dynamodb.js
t_dynamodb() {
    need 'DynamoDB' node || return
    if ! node -e 'require("dynalite"); require("@aws-sdk/client-dynamodb")' 2>/dev/null; then
        skip 'DynamoDB' 'node finds no dynalite and @aws-sdk/client-dynamodb (set NODE_PATH)'
        return
    fi
    if ! python 'DynamoDB'; then return; fi
    bg dynamo node .ci/dynamodb.js serve "$tmp/dynamo"
    [ -f "$tmp/imds" ] || bg imds python3 "$tmp/imds.py" "$tmp/imds"
    until_true test -f "$tmp/dynamo" -a -f "$tmp/imds"
    dynamo_port() { awk -v m="$1" '$1 == m { print $2 }' "$tmp/dynamo"; }
    aws() { node .ci/dynamodb.js sdk "$(dynamo_port dynalite)" "$@" 2>/dev/null; }
    # "$tmp/at" MODE WORDS...: env with the settings for the endpoint of that mode
    cat >"$tmp/at" <<END
#!/bin/sh
export PASH_RENDEZVOUS=dynamodb:rdv AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=AKID AWS_SECRET_ACCESS_KEY=secret/+=
AWS_ENDPOINT_URL_DYNAMODB="http://127.0.0.1:\$(awk -v m="\$1" '\$1 == m { print \$2 }' "$tmp/dynamo")"
export AWS_ENDPOINT_URL_DYNAMODB
shift
exec env "\$@"
END
    chmod +x "$tmp/at"
    seq 1000 >"$tmp/in"
    dynamo_pair() {                                 # NAME MODE-OF-S MODE-OF-R
        rm -f "$tmp/got"
        bg R "$tmp/at" "$3" $P recv k 1 0 "$tmp/got"
        until_true grep -q -e waiting -e again "$tmp/R.err"
        bg S "$tmp/at" "$2" $P send k 0 1 "$tmp/in"
        both "$1: exit statuses" '0 0'
        is "$1: the data" "$(sha256sum <"$tmp/in")" "$(sha256sum <"$tmp/got")"
    }
    dynamo_pair 'DynamoDB' pass pass2
    has 'it says where it waits' "$tmp/R.err" '^pashlib: recv k: waiting for node 0 at dynamodb:rdv (us-east-1)$'
    has 'it says which rendezvous is used' "$tmp/S.err" '^pashlib: rendezvous dynamodb:rdv (us-east-1)$'
    is 'the table is empty' '[]' "$(aws scan)"
    is 'the second to come needs one request before it connects' 'UpdateItem UpdateItem' \
        "$(sed -n 's/^pass [0-9]* \([A-Z]*[a-z]*[A-Z]*[a-z]*\) signed.*/\1/p' "$tmp/dynamo.log" | head -n 2 | tr '\n' ' ' | sed 's/ $//')"
    for mode in throttle err500 drop cutanswer badchunk hang pieces extra chunked nolen; do
        dynamo_pair "DynamoDB, $mode" pass $mode
        case $mode in
        throttle) want='UpdateItem: status 400 RequestLimitExceeded: slow down: trying again' ;;
        err500) want='UpdateItem: status 500: trying again' ;;
        drop) want='the answer is cut in its head: trying again' ;;
        cutanswer) want='the body is cut: .*: trying again' ;;
        badchunk) want='the body is cut in its chunks: trying again' ;;
        hang) want='no whole answer in time: trying again' ;;
        *) want='waiting for node 0' ;;
        esac
        has "DynamoDB, $mode: told" "$tmp/R.err" "$want"
    done
    is 'the table is empty after all that' '[]' "$(aws scan)"
    refused() {                                     # NAME MODE WANT SETTING...
        refused_name=$1 refused_mode=$2 refused_want=$3
        shift 3
        before=$(date +%s)
        run "$tmp/at" "$refused_mode" "$@" $P recv k 1 0 "$tmp/x"
        is "$refused_name: exit 1, at once" '1 yes' "$status $([ $(($(date +%s) - before)) -lt 8 ] && echo yes)"
        has "$refused_name: told" "$tmp/err" "^pashlib: recv k: rendezvous dynamodb:[a-z]* (us-east-1): $refused_want"
    }
    refused 'no permission' denied 'UpdateItem: status 400 AccessDeniedException: User: \\x1b\[31mx is not authorized to perform: dynamodb:UpdateItem$'
    refused 'wrong secret' pass 'UpdateItem: status 400 InvalidSignatureException: it differs' AWS_SECRET_ACCESS_KEY=wrong
    refused 'a bad signature' badsig 'UpdateItem: status 400 InvalidSignatureException: The request signature'
    refused 'a 403 that is no JSON' html403 'UpdateItem: status 403$'
    refused 'a redirect' redirect 'UpdateItem: status 302$'
    refused 'no table' pass 'UpdateItem: status 400 ResourceNotFoundException: Requested resource not found' PASH_RENDEZVOUS=dynamodb:none
    refused 'an expired token of the environment' expired 'UpdateItem: status 400 ExpiredTokenException: ' AWS_ACCESS_KEY_ID=OLD AWS_SECRET_ACCESS_KEY=oldsecret AWS_SESSION_TOKEN=session+token/==
    refused 'nobody at the endpoint' pass '127.0.0.1:9: Connection refused$' AWS_ENDPOINT_URL_DYNAMODB=http://127.0.0.1:9
    refused 'an endpoint without a name' pass 'name look-up of no.such.name.invalid: ' AWS_ENDPOINT_URL_DYNAMODB=http://no.such.name.invalid
    refused 'no credentials' pass 'no credentials: AWS_ACCESS_KEY_ID is not set; instance role: AWS_EC2_METADATA_DISABLED is true$' AWS_ACCESS_KEY_ID= AWS_SECRET_ACCESS_KEY=
    role() {                                        # MODE: settings for the credentials of a role
        echo "AWS_ACCESS_KEY_ID= AWS_SECRET_ACCESS_KEY= AWS_EC2_METADATA_DISABLED= AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:$(imds_port "$1")"
    }
    # shellcheck disable=SC2046 # words
    refused 'no role' pass 'no credentials: .*: this instance has no role$' $(role norole)
    # shellcheck disable=SC2046
    refused 'a role whose Code is not Success' pass 'no credentials: .*my+role@x: its Code is Failed$' $(role rolefail)
    # shellcheck disable=SC2046
    refused 'a role without a token' pass 'no credentials: .*my+role@x: a member is missing' $(role rolemissing)
    run "$tmp/at" always500 PASH_PEER_TIMEOUT_MS=1500 $P recv k 1 0 "$tmp/x"
    is 'errors to the end: exit 1' 1 $status
    has 'errors to the end: told' "$tmp/err" 'recv k: node 0 did not register at dynamodb:rdv (us-east-1) within 1.[56] s'
    has 'errors to the end: why' "$tmp/err" 'UpdateItem: status 500 InternalServerError: broken: trying again'
    # 32 streams, the role's credentials: one fetch; expired ones: one more
    a='' b='' i=0
    while [ $i -lt 32 ]; do
        i=$((i + 1))
        a="$a send*m$i*0*1*$tmp/in" b="$b recv*m$i*1*0*$tmp/m$i.got"
    done
    before=$(grep -c 'my+role' "$tmp/imds.log")
    # shellcheck disable=SC2046,SC2086 # words
    bg R "$tmp/at" expired PASH_LOG=error $(role role) $P $b
    # shellcheck disable=SC2086
    bg S "$tmp/at" pass PASH_LOG=error $P $a
    both '32 streams, credentials of a role that expire' '0 0'
    is 'they are fetched twice: at first, and when they have expired' 2 $(($(grep -c 'my+role' "$tmp/imds.log") - before))
    is 'with their token, signed' 0 "$(grep '^expired' "$tmp/dynamo.log" | grep -v -c ' signed ')"
    is '32 streams: the data' 32 "$(for i in "$tmp"/m*.got; do cmp -s "$i" "$tmp/in" && echo "$i"; done | wc -l)"
    rm -f "$tmp"/m*.got
    before=$(grep -c '^rolestale.*my+role' "$tmp/imds.log")
    # shellcheck disable=SC2046 # words
    run "$tmp/at" pass PASH_PEER_TIMEOUT_MS=500 $(role rolestale) $P recv stale 1 0 "$tmp/x"
    is 'credentials past their Expiration are fetched anew' 1 "$(($(grep -c '^rolestale.*my+role' "$tmp/imds.log") - before > 2))"
    has 'and used' "$tmp/err" 'recv stale: waiting for node 0'
    # shellcheck disable=SC2046 # words
    run "$tmp/at" pass PASH_PEER_TIMEOUT_MS=500 $(role roleonce) $P recv once 1 0 "$tmp/x"
    is 'a renewal that fails while the old ones are good: not tried at every look' 2 "$(grep -c '^roleonce.*my+role' "$tmp/imds.log")"
    has 'is no failure' "$tmp/err" 'recv once: node 0 did not register'
    hasnt 'nor is the withdrawal' "$tmp/err" 'withdrawing'
    # shellcheck disable=SC2046 # words
    run "$tmp/at" pass PASH_PEER_TIMEOUT_MS=500 $(role rolehang) $P recv hang 1 0 "$tmp/x"
    has 'an IMDS that never answers PUT gives a role all the same' "$tmp/err" 'recv hang: node 0 did not register'
    # how often it looks
    run "$tmp/at" pass2 PASH_PEER_TIMEOUT_MS=4000 $P recv looks 1 0 "$tmp/x"
    looks=$(grep -c '^pass2 [0-9]* GetItem signed.*looks' "$tmp/dynamo.log")
    is "it looks from 50 ms to 1 s apart: $looks looks in 4 s" 1 $((looks >= 8 && looks <= 11))
    # as deployments have it: the SDK reads what we write, and we what it writes
    bg R "$tmp/at" pass PASH_CONNECT_TIMEOUT_MS=1500 $P recv 'old "k\é' 1 0 "$tmp/x"
    until_true grep -q waiting "$tmp/R.err"
    is 'the SDK reads our registration' '{"local_addr":"127.0.0.1:P","external_addr":"127.0.0.1:P"}' \
        "$(aws get 'old "k\é' | python3 -c 'import json, re, sys; print(re.sub(r"1:\d+", "1:P", json.load(sys.stdin)["N_1"]["S"]))')"
    aws put 'old "k\é' N_0 '{"external_addr": "127.0.0.2:9", "local_addr": "127.0.0.1:9"}' >/dev/null
    ended R
    has 'and we read what it registers' "$tmp/R.err" 'no connection to node 0 (external 127.0.0.2:9, local 127.0.0.1:9) from '
    is 'only our attribute is withdrawn' '["N_0","key"]' "$(aws get 'old "k\é' | python3 -c 'import json, sys; print(json.dumps(sorted(json.load(sys.stdin)), separators=(",", ":")))')"
    # a stale registration, and an item full of other things
    aws put k N_0 '{"external_addr":"127.0.0.1:9","local_addr":"127.0.0.1:9"}' >/dev/null
    aws fill k 300000 >/dev/null
    bg R "$tmp/at" pass $P recv k 1 0 "$tmp/got"
    until_true grep -q connecting "$tmp/R.err"
    bg S "$tmp/at" pass2 $P send k 0 1 "$tmp/in"
    both 'a stale registration in an item of 300 KB' '0 0'
    is 'its item is gone' undefined "$(aws get k)"
    # a throttled DeleteItem is not the end of it
    dynamo_pair 'DeleteItem is throttled' pass lostdelete
    is 'DeleteItem is throttled: the item is gone' 'undefined' "$(aws get k)"
    # withdrawing that hangs delays no data and changes no exit status
    bg R "$tmp/at" pass $P recv k 1 0 "$tmp/got"
    bg S "$tmp/at" hangremove $P send k 0 1 "$tmp/in"
    ended R
    is 'withdrawing hangs: the receiver does not wait' 0 "$status"
    ended S
    is 'withdrawing hangs: exit 0' 0 "$status"
    has 'withdrawing hangs: told' "$tmp/S.err" 'withdrawing the registration: '
    is 'withdrawing hangs: what is left is that' '["N_0", "key"]' "$(aws get k | python3 -c 'import json, sys; print(json.dumps(sorted(json.load(sys.stdin))))')"
    # two streams each way through 8 processes
    i=0
    while [ $i -lt 4 ]; do
        i=$((i + 1))
        bg "D$i" "$tmp/at" pass PASH_LOG=error $P "send*a$i*0*1*$tmp/in" "send*b$i*0*1*$tmp/in" "recv*c$i*0*1*$tmp/c$i.got" "recv*d$i*0*1*$tmp/d$i.got"
        bg "E$i" "$tmp/at" pass2 PASH_LOG=error $P "recv*a$i*1*0*$tmp/a$i.got" "recv*b$i*1*0*$tmp/b$i.got" "send*c$i*1*0*$tmp/in" "send*d$i*1*0*$tmp/in"
    done
    bad=0
    for i in D1 D2 D3 D4 E1 E2 E3 E4; do
        ended $i
        [ "$status" = 0 ] || bad=$((bad + 1))
    done
    is '8 processes, two streams each way' 0 $bad
    is '8 processes: the data' 16 "$(for i in "$tmp"/[abcd][1234].got; do cmp -s "$i" "$tmp/in" && echo "$i"; done | wc -l)"
    is '8 processes: of their items none is left' '[]' \
        "$(aws scan | python3 -c 'import json, re, sys; print([k for k in (i["key"]["S"] for i in json.load(sys.stdin)) if re.match("[abcd][1234]$", k)])')"
    is 'every request was signed well, but one' 1 "$(grep -c -v ' signed ' "$tmp/dynamo.log")"
    stop dynamo
}

# ---- connecting ----

t_connect() {
    rm -rf "$tmp/rdv"
    echo hello >"$tmp/in"
    # no peer, no connection
    run env PASH_PEER_TIMEOUT_MS=500 $P send k 0 1 "$tmp/in"
    is 'the peer does not come' 1 $status
    has 'the peer does not come' "$tmp/err" "^pashlib: send k: node 1 did not register at dir:$tmp/rdv within 0.5 s\$"
    left_nothing 'the peer does not come'
    bg S env PASH_CONNECT_TIMEOUT_MS=700 PASH_PEER_TIMEOUT_MS=5000 $P send k 0 1 "$tmp/in"
    until_true test -f "$tmp/rdv/k/N_0"
    echo '{"local_addr":"127.0.0.1:9","external_addr":"127.0.0.2:9"}' >"$tmp/rdv/k/N_1"
    ended S
    is 'nobody listens there' 1 "$status"
    has 'a failure names both ends and what was tried' "$tmp/S.err" '^pashlib: send k: no connection to node 1 (external 127.0.0.2:9, local 127.0.0.1:9) from 127.0.0.1:[0-9]* within 0.[78] s: [0-9]* refused$'
    is 'at most 20 attempts at an address in a tenth of a second' 1 "$(($(sed -n 's/.* s: \([0-9]*\) refused/\1/p' "$tmp/S.err") <= 2 * 20 * 9))"
    is 'but many' 1 "$(($(sed -n 's/.* s: \([0-9]*\) refused/\1/p' "$tmp/S.err") >= 2 * 20 * 4))"
    has 'connecting from A to B' "$tmp/S.err" '^pashlib: send k: connecting from 127.0.0.1:[0-9]* to 127.0.0.2:9$'
    rm -rf "$tmp/rdv"
    # a leftover: the limit is PASH_PEER_TIMEOUT_MS; gone: 5 s more, but not less than PASH_CONNECT_TIMEOUT_MS in all
    mkdir -m 700 "$tmp/rdv" "$tmp/rdv/k"
    echo '{"local_addr":"127.0.0.1:9"}' >"$tmp/rdv/k/N_1"
    run env PASH_CONNECT_TIMEOUT_MS=200 PASH_PEER_TIMEOUT_MS=1500 $P send k 0 1 "$tmp/in"
    has 'a leftover is tried for PASH_PEER_TIMEOUT_MS' "$tmp/err" '(external none, local 127.0.0.1:9) from .* within 1.[56] s: '
    bg S env PASH_CONNECT_TIMEOUT_MS=200 $P send k 0 1 "$tmp/in"
    until_true grep -q connecting "$tmp/S.err"
    rm "$tmp/rdv/k/N_1"
    ended S
    has 'a leftover that goes: 5 s more' "$tmp/S.err" 'within 5.* s: '
    mkdir -m 700 "$tmp/rdv/k"
    echo '{"local_addr":"127.0.0.1:9"}' >"$tmp/rdv/k/N_1"
    bg S env PASH_CONNECT_TIMEOUT_MS=700 $P send k 0 1 "$tmp/in"
    until_true grep -q connecting "$tmp/S.err"
    mv "$tmp/rdv/k/N_1" "$tmp/away"
    sleep 0.6
    mv "$tmp/away" "$tmp/rdv/k/N_1"
    ended S
    has 'a leftover that goes and comes back is one no more' "$tmp/S.err" 'within 0.[78] s: '
    bg S env PASH_CONNECT_TIMEOUT_MS=2000 $P send k 0 1 "$tmp/in"
    until_true grep -q connecting "$tmp/S.err"
    rm -f "$tmp/out1"
    bg R $P recv k 1 0 "$tmp/out1"
    both 'a leftover that is replaced' '0 0'
    is 'a leftover that is replaced: the data' hello "$(cat "$tmp/out1")"
    left_nothing 'a leftover that is replaced'
    # what is no address of the peer's
    mkdir -m 700 "$tmp/rdv/k"
    echo '{"local_addr":"0.0.0.0:9","external_addr":"239.1.1.1:9"}' >"$tmp/rdv/k/N_1"
    run env PASH_PEER_TIMEOUT_MS=300 $P send k 0 1 "$tmp/in"
    has 'no usable address counts as absent' "$tmp/err" 'node 1 did not register'
    rm -rf "$tmp/rdv"
    # strangers
    if python 'strangers'; then
        bg R env PASH_PUBLIC_ADDR=127.0.0.1:44000 $P recv k 1 0 "$tmp/out1"
        until_true test -f "$tmp/rdv/k/N_1"
        port=$(sed 's/.*:\([0-9]*\)"}/\1/' "$tmp/rdv/k/N_1")
        bg strangers python3 "$tmp/strangers.py" "$port" 40 40 0
        until_true grep -q held "$tmp/strangers.out"
        bg S $P send k 0 1 "$tmp/in"
        both '80 strangers hold connections: the peer gets through' '0 0'
        is 'strangers: the data' hello "$(cat "$tmp/out1")"
        stop strangers
    fi
    # the wrong key: two that meet by mistake
    bg S env PASH_CONNECT_TIMEOUT_MS=1500 $P send k1 0 1 "$tmp/in"
    bg R env PASH_CONNECT_TIMEOUT_MS=1500 $P recv k2 1 0 "$tmp/out2"
    until_true test -f "$tmp/rdv/k1/N_0" -a -f "$tmp/rdv/k2/N_1"
    cp "$tmp/rdv/k1/N_0" "$tmp/rdv/k2/N_0"
    cp "$tmp/rdv/k2/N_1" "$tmp/rdv/k1/N_1"
    both 'the wrong key' '1 1'
    has 'the wrong key is told' "$tmp/S.err" 'without handshake: it does not know the key'
    is 'the wrong key: nothing is written' 'no' "$([ -e "$tmp/out2" ] && echo yes || echo no)"
    rm -rf "$tmp/rdv"
    # both ends send, both receive
    bg S "$P" send k 0 1 "$tmp/in"
    bg R $P send k 1 0 "$tmp/in"
    both 'both ends send' '1 1'
    has 'both ends send: told' "$tmp/S.err" '^pashlib: send k: both ends send$'
    has 'both ends send: told at the other end' "$tmp/R.err" '^pashlib: send k: both ends send$'
    bg S $P recv k 0 1 "$tmp/x"
    bg R $P recv k 1 0 "$tmp/y"
    both 'both ends receive' '1 1'
    has 'both ends receive: told' "$tmp/R.err" '^pashlib: recv k: both ends receive$'
    left_nothing 'both ends receive'
    if ! python 'a peer written from README'; then return; fi
    bg R env PASH_CONNECT_TIMEOUT_MS=1000 $P recv k 1 0 "$tmp/x"
    until_true test -f "$tmp/rdv/k/N_1"
    bg greedy python3 "$tmp/greedy.py" "$tmp/rdv" k "$(sed 's/.*:\([0-9]*\)"}/\1/' "$tmp/rdv/k/N_1")"
    ended greedy
    is 'a peer that takes all it can' 0 "$status"
    ended R
    is 'a peer that takes all it can: exit 1' 1 "$status"
    has 'a peer that takes all it can: told' "$tmp/R.err" '^pashlib: recv k: no connection to node 0 (external 127.0.0.2:[0-9]*, local 127.0.0.1:[0-9]*) from '
    rm -rf "$tmp/rdv"
    # the handshake, against another implementation
    for mode in badmagic badrole badzero badnode badproof; do
        bg S env PASH_CONNECT_TIMEOUT_MS=600 PASH_PEER_TIMEOUT_MS=3000 $P send k 0 1 "$tmp/in"
        until_true test -f "$tmp/rdv/k/N_0"
        bg peer python3 "$tmp/peer.py" "$tmp/rdv" k 1 0 $mode
        ended S
        is "$mode: exit 1" 1 "$status"
        case $mode in
        badmagic) want='it does not speak this protocol' ;;
        badnode) want='it is node 8 and wants node 0' ;;
        badproof) want='it does not know the key' ;;
        *) want='its HELLO is malformed' ;;
        esac
        has "$mode: told" "$tmp/S.err" "without handshake: $want"
        stop peer
        rm -rf "$tmp/rdv"
    done
    bg peer python3 "$tmp/peer.py" "$tmp/rdv" k 1 0 register
    run env PASH_CONNECT_TIMEOUT_MS=600 $P send k 0 1 "$tmp/in"
    is 'a peer that takes the connection and is silent: exit 1' 1 $status
    has 'a peer that takes the connection and is silent: told' "$tmp/err" ' within [0-9.]* s: 1 without handshake: it was silent$'
    stop peer
    rm -rf "$tmp/rdv"
    bg S "$P" send k 0 1 "$tmp/in"
    bg R python3 "$tmp/peer.py" "$tmp/rdv" k 1 0 recv
    both 'a receiver written from README' '0 0'
    is 'a receiver written from README: the data' "$(sha256sum <"$tmp/in" | cut -d' ' -f1) 6" "$(cat "$tmp/R.out")"
    rm -rf "$tmp/rdv"
    for order in '0 1' '1 0'; do
        for mode in send send-trickle send-max; do
            # shellcheck disable=SC2086 # two words
            bg S python3 "$tmp/peer.py" "$tmp/rdv" k $order $mode
            # shellcheck disable=SC2046 # two words
            bg R $P recv k $(echo "$order" | awk '{ print $2, $1 }') "$tmp/out1"
            both "$mode written from README, nodes $order" '0 0'
            is "$mode: answered" "$(wc -c <"$tmp/out1")" "$(cat "$tmp/S.out")"
            rm -rf "$tmp/rdv"
        done
        is 'a frame of 1 MiB' "$(head -c 1048576 /dev/zero | tr '\0' z | sha256sum)" "$(sha256sum <"$tmp/out1")"
    done
    bg R $P recv k 1 0 "$tmp/out1"
    until_true test -f "$tmp/rdv/k/N_1"
    bg S python3 "$tmp/peer.py" "$tmp/rdv" k 0 1 send-crowded
    both '40 strangers between HELLO and PROOF' '0 0'
    bg R $P recv k 1 0 "$tmp/x"
    until_true test -f "$tmp/rdv/k/N_1"
    bg strangers python3 "$tmp/strangers.py" "$(sed 's/.*:\([0-9]*\)"}/\1/' "$tmp/rdv/k/N_1")" 0 0 40
    until_true grep -q held "$tmp/strangers.out"
    bg S python3 "$tmp/peer.py" "$tmp/rdv" k 0 1 send-crowded
    both '40 strangers who say HELLO as the peer would' '0 0'
    stop strangers
    rm -rf "$tmp/rdv"
    for mode in send-big send-total send-cutframe send-noend send-cutend; do
        bg S python3 "$tmp/peer.py" "$tmp/rdv" k 0 1 $mode
        bg R $P recv k 1 0 "$tmp/out1"
        ended R
        is "$mode: exit 1" 1 "$status"
        case $mode in
        send-big) want='a frame of 1048577 bytes is none' ;;
        send-total) want='received 2304 bytes of 2305: output is incomplete' ;;
        send-cutframe) want='connection lost after 2299 bytes: output is incomplete' ;;
        *) want='connection lost after 2304 bytes: output is incomplete' ;;
        esac
        has "$mode: told" "$tmp/R.err" "^pashlib: recv k: $want\$"
        stop S
        rm -rf "$tmp/rdv"
    done
    head -c 3000000 /dev/urandom >"$tmp/in3"
    for mode in recv-wrong recv-cut recv-gone recv-early recv-nogo; do
        bg R python3 "$tmp/peer.py" "$tmp/rdv" k 0 1 $mode
        bg S env PASH_CONNECT_TIMEOUT_MS=500 PASH_PEER_TIMEOUT_MS=1000 $P send k 1 0 "$tmp/in3"
        ended S
        case $mode in
        recv-wrong) want='1 node 0 has 3000001 bytes of 3000000: output is incomplete' ;;
        recv-cut) want='1 connection lost after [0-9]* bytes: output is incomplete' ;;
        recv-gone) want='0 node 0 needs no more: its reader went away' ;;
        recv-early) want='1 node 0 has [0-9]* bytes of [0-9]*: output is incomplete' ;;
        recv-nogo) want='1 no connection .* without handshake: it sent no GO' ;;
        esac
        is "$mode: exit status" "${want%% *}" "$status"
        has "$mode: told" "$tmp/S.err" "^pashlib: send k: ${want#* }"
        stop R
        rm -rf "$tmp/rdv"
    done
}

# ---- transfer ----

pair() {                                            # NAME WANT: $in to $out through S and R
    rm -f "$tmp/got"
    bg S "$P" send k 0 1 "$tmp/in"
    bg R "$P" recv k 1 0 "$tmp/got"
    both "$1: exit statuses" '0 0'
    is "$1: the data" "$(sha256sum <"$tmp/in")" "$(sha256sum <"$tmp/got")"
    left_nothing "$1"
}

t_transfer() {
    rm -rf "$tmp/rdv"
    for size in 0 1 262143 262144 262145 1048575 1048576 1048577 100000000; do
        head -c $size /dev/urandom >"$tmp/in"
        pair "$size bytes"
    done
    has 'sent' "$tmp/S.err" '^pashlib: send k: sent 100000000 bytes$'
    has 'received' "$tmp/R.err" '^pashlib: recv k: received 100000000 bytes$'
    is 'nothing on standard output' 00 "$(wc -c <"$tmp/S.out")$(wc -c <"$tmp/R.out")"
    # very small buffers, sanitizers, the portable paths, the static build
    head -c 3001 /dev/urandom >"$tmp/in"
    old=$P
    for build in 'gcc -g -fsanitize=address,undefined -fno-sanitize-recover=all -DPASHLIB_BUFFER=1' \
        'gcc -g -fsanitize=address,undefined -fno-sanitize-recover=all -DPASHLIB_BUFFER=7' \
        'cc -O2 -U__linux__' 'tcc' 'musl-gcc -O2 -static'; do
        need "transfer: $build" "${build%% *}" || continue
        # shellcheck disable=SC2086 # words
        run $build -o "$tmp/pl" pashlib.c
        is "compiles: $build" 0 $status
        P=$tmp/pl
        pair "built with $build"
        P=$old
    done
    # standard input and output, a pipeline
    bg S sh -c "seq 100000 | $P send k 0 1"
    bg R sh -c "$P recv k 1 0 | tail -n 1"
    both 'a pipeline' '0 0'
    is 'a pipeline: the data' 100000 "$(cat "$tmp/R.out")"
    bg S sh -c "seq 1000 | $P 'send*k*0*1*-'"
    bg R sh -c "$P 'recv*k*1*0*-' >$tmp/got"
    both 'into a file' '0 0'
    is 'into a file: the data' 1000 "$(tail -n 1 "$tmp/got")"
    seq 100000 >"$tmp/in"
    bg S "$P" send k 0 1 "$tmp/in"
    bg R sh -c "$P recv k 1 0 >>$tmp/got"
    both 'appended to a file' '0 0'
    is 'appended: the data' 101000 "$(wc -l <"$tmp/got")"
    rm -f "$tmp/a * # b"
    bg S $P "send*k*0*1*$tmp/in"
    bg R $P "recv*k*1*0*$tmp/a * # b"
    both 'a path with a star and blanks' '0 0'
    is 'a path with a star and blanks: the data' 100000 "$(wc -l <"$tmp/a * # b")"
    bg S sh -c "seq 1000 | $P send k 0 1 /dev/stdin"
    bg R sh -c "$P recv k 1 0 /dev/stdout | tail -n 1"
    both '/dev/stdin and /dev/stdout are standard input and output' '0 0'
    is '/dev/stdin and /dev/stdout: the data' 1000 "$(cat "$tmp/R.out")"
    if python 'non-blocking standard input and output'; then
        cat >"$tmp/nonblock.py" <<'END'
import fcntl, os, subprocess, sys, time
a, b = os.pipe(), os.pipe()
for p in (a, b):
    for fd in p: fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
s = subprocess.Popen([sys.argv[1], "send", "k", "0", "1"], stdin=a[0])
r = subprocess.Popen([sys.argv[1], "recv", "k", "1", "0"], stdout=b[1])
os.close(a[0]); os.close(b[1])
fcntl.fcntl(b[0], fcntl.F_SETFL, 0)
data, got = b"x" * 300000, b""
fcntl.fcntl(a[1], fcntl.F_SETFL, os.O_NONBLOCK)
at = 0
time.sleep(0.2)
while at < len(data):
    try: at += os.write(a[1], data[at:at + 50000])
    except BlockingIOError: got += os.read(b[0], 1000)
os.close(a[1])
while True:
    more = os.read(b[0], 100000)
    if not more: break
    got += more
sys.exit(not (s.wait() == 0 and r.wait() == 0 and got == data))
END
        run python3 "$tmp/nonblock.py" $P
        is 'non-blocking standard input and output' 0 $status
    fi
    # what cannot be opened, read, written
    fails() {                                       # NAME INPUT OUTPUT MESSAGE-OF-S MESSAGE-OF-R
        rm -f "$tmp/got"
        bg S $P send k 0 1 "$2"
        bg R $P recv k 1 0 "$3"
        both "$1" '1 1'
        has "$1: the sender" "$tmp/S.err" "^pashlib: send k: $4"
        has "$1: the receiver" "$tmp/R.err" "^pashlib: recv k: $5"
        left_nothing "$1"
    }
    fails 'no input' "$tmp/none" "$tmp/got" "opening $tmp/none: No such file or directory\$" 'connection lost after 0 bytes: output is incomplete$'
    fails 'an input that cannot be read' "$tmp" "$tmp/got" "reading $tmp: Is a directory\$" 'connection lost after 0 bytes: output is incomplete$'
    fails 'no output' "$tmp/in" "$tmp/none/x" 'connection lost after [0-9]* bytes: output is incomplete$' "opening $tmp/none/x: No such file or directory\$"
    long=$tmp/$(printf %0200d/ 0 0 0 0)none
    bg S "$P" send k 0 1 "$long"
    bg R "$P" recv k 1 0 "$tmp/got"
    both 'a long path that is not there' '1 1'
    has 'a long path: the reason is not cut off' "$tmp/S.err" 'No such file or directory$'
    fails 'a full disk' "$tmp/in" /dev/full 'connection lost after [0-9]* bytes: output is incomplete$' 'writing /dev/full: No space left on device$'
    bg S sh -c "$P send k 0 1 <&-"
    bg R "$P" recv k 1 0 "$tmp/got"
    both 'standard input closed' '1 1'
    has 'standard input closed: told' "$tmp/S.err" 'opening -: Bad file descriptor'
    bg S "$P" send k 0 1 "$tmp/in"
    bg R sh -c "$P recv k 1 0 >&-"
    both 'standard output closed' '1 1'
    bg S sh -c "$P send k 0 1 $tmp/in <&- >&- 2>&-"
    bg R "$P" recv k 1 0 "$tmp/got"
    both 'all three closed, a path' '0 0'
    is 'all three closed: the data' "$(sha256sum <"$tmp/in")" "$(sha256sum <"$tmp/got")"
    bg S sh -c "$P send k 0 1 $tmp/in 2>&1 | true"
    bg R sh -c "{ $P recv k 1 0 $tmp/got; echo \$? >&3; } 3>$tmp/rc 2>&1 | true"
    both 'a dead standard error' '0 0'
    for name in /proc/self/fd/1 //dev/stdout; do
        bg S "$P" send k 0 1 "$tmp/in"
        bg R sh -c "$P recv k 1 0 $name >$tmp/got"
        both "$name, which is no standard output in a child" '1 1'
        has "$name: told" "$tmp/R.err" "^pashlib: recv k: opening $name: "
    done
    if python 'a stuck standard error'; then
        cat >"$tmp/stuck.py" <<'END'
import fcntl, os, subprocess, sys, time
r, w = os.pipe()
fcntl.fcntl(w, fcntl.F_SETFL, os.O_NONBLOCK)
try:
    while True: os.write(w, b"x" * 65536)
except BlockingIOError: pass
try:
    while True: os.write(w, b"x")
except BlockingIOError: pass
fcntl.fcntl(w, fcntl.F_SETFL, 0)
began = time.monotonic()
p = subprocess.Popen(sys.argv[1:], stderr=w)
print(p.wait(), time.monotonic() - began < 5)
END
        run env PASH_PEER_TIMEOUT_MS=100 python3 "$tmp/stuck.py" $P "recv*a*1*0*x" "recv*b*1*0*x" "recv*c*1*0*x" "recv*d*1*0*x"
        is 'a stuck standard error costs one second, not one a line' '1 True' "$(cat "$tmp/out")"
    fi
    bg S sh -c "$P send k 0 1 $tmp/in 2>&1 | true"
    bg R sh -c "{ $P recv k 1 0 $tmp/got; echo \$? >&3; } 3>$tmp/rc 2>&1 | true"
    both 'a dead standard error, again' '0 0'
    is 'a dead standard error stops nothing' "0 $(sha256sum <"$tmp/in")" "$(cat "$tmp/rc") $(sha256sum <"$tmp/got")"
}

t_readers() {
    rm -rf "$tmp/rdv"
    # the reader needs no more
    bg S bash -c "yes | $P send k 0 1; echo \${PIPESTATUS[@]}"
    bg R bash -c "$P recv k 1 0 | head -n 1; echo \${PIPESTATUS[@]}"
    both 'the reader goes away' '0 0'
    is 'success on both sides, and SIGPIPE for the feeder' '141 0|y|0 0|' "$(cat "$tmp/S.out" "$tmp/R.out" | tr '\n' '|')"
    has 'the receiver says so' "$tmp/R.err" '^pashlib: recv k: the reader of - went away$'
    has 'the sender says so' "$tmp/S.err" '^pashlib: send k: node 1 needs no more: its reader went away$'
    mkfifo "$tmp/i" "$tmp/o"
    bg S $P send k 0 1 "$tmp/i"
    bg R $P recv k 1 0 "$tmp/o"
    bg feeder sh -c "exec 3>$tmp/i; echo one >&3; sleep 30"
    bg reader sh -c "read -r line <$tmp/o; echo \$line"
    both 'the reader goes away while the stream is idle' '0 0'
    ended reader
    is 'it has what it wanted' one "$(cat "$tmp/reader.out")"
    stop feeder
    # a reader that stalls, that is slow
    bg S sh -c "seq 300000 | $P send k 0 1"
    bg R sh -c "$P recv k 1 0 | { sleep 2; tail -n 1; }"
    both 'a reader that stalls' '0 0'
    is 'a reader that stalls: the data' 300000 "$(cat "$tmp/R.out")"
    bg S sh -c "{ echo 1; sleep 1; echo 2; sleep 1; echo 3; } | $P send k 0 1"
    bg R sh -c "$P recv k 1 0 | while read -r l; do echo \$l; sleep 0.3; done"
    both 'slow at both ends' '0 0'
    is 'slow: the data' '1 2 3' "$(tr '\n' ' ' <"$tmp/R.out" | sed 's/ $//')"
    # a FIFO whose other end does not come holds up nobody else
    rm -f "$tmp/i" "$tmp/o"
    mkfifo "$tmp/i" "$tmp/o"
    seq 10 >"$tmp/in"
    bg S $P "send*held*0*1*$tmp/i" "send*free*0*1*$tmp/in"
    bg R $P "recv*held*1*0*$tmp/o" "recv*free*1*0*$tmp/got"
    until_true grep -q 'recv free: received 21 bytes' "$tmp/R.err"
    is 'a FIFO that waits holds up its own stream alone' "$(cat "$tmp/in")" "$(cat "$tmp/got")"
    kill "$(pid S)"
    ended S
    ended R
    is 'a lost connection ends the wait for the FIFO' 1 "$status"
    has 'a lost connection ends the wait: told' "$tmp/R.err" '^pashlib: recv held: connection lost after 0 bytes: output is incomplete$'
    bg S $P send held 0 1 "$tmp/i"
    bg R $P recv held 1 0 "$tmp/o"
    until_true grep -q connected "$tmp/S.err"
    kill -9 "$(pid R)"
    ended S
    is 'the same for the input' 1 "$status"
    ended R
    # the reader goes away before the writer has come
    bg S $P send k 0 1 "$tmp/i"
    bg R sh -c "$P recv k 1 0 | true"
    until_true grep -q 'send k: node 1 needs no more' "$tmp/S.err"
    ended R
    has 'an input whose writer has not come is waited for, and that is told' "$tmp/S.err" "^pashlib: send k: waiting for the other end of $tmp/i\$"
    run sh -c "seq 1000000 2>/dev/null >$tmp/i; [ \$? != 0 ]"
    is 'its writer comes, and gets SIGPIPE' 0 $status
    ended S
    is 'its writer comes: success' 0 "$status"
    # standard output that is read and written: its reader may be nobody else yet
    rm -f "$tmp/read"
    bg R sh -c "exec $P recv k 1 0 1<>$tmp/o"
    bg S sh -c "{ seq 5; sleep 1; seq 6 9; until [ -f $tmp/read ]; do sleep 0.1; done; } | $P send k 0 1"
    until_true grep -q connected "$tmp/R.err"
    sleep 0.5
    timeout 20 head -n 9 "$tmp/o" >"$tmp/got"
    echo >"$tmp/read"
    both 'standard output opened for both' '0 0'
    is 'standard output opened for both: the data' "$(seq 9)" "$(cat "$tmp/got")"
    # standard output that is a block device: what stood before stays
    head -c 65536 /dev/zero >"$tmp/disk"
    if loop=$(losetup -f --show "$tmp/disk" 2>/dev/null); then
        bg S $P send k 0 1 "$tmp/in"
        bg R sh -c "{ printf HEADER; $P recv k 1 0; rc=\$?; printf TRAILER; exit \$rc; } >$loop"
        both 'standard output that is a block device' '0 0'
        is 'standard output that is a block device: the data' "HEADER$(cat "$tmp/in")
TRAILER" "$(head -c $((13 + $(wc -c <"$tmp/in"))) "$loop")"
        losetup -d "$loop"
        loop=''
    else
        echo '# no loop device can be had here: standard output that is a block device is not tried'
    fi
    # an output that appears late
    bg S "$P" send k 0 1 "$tmp/in"
    bg R $P recv k 1 0 "$tmp/o"
    until_true grep -q connected "$tmp/R.err"
    sleep 0.5
    cat "$tmp/o" >"$tmp/got"
    both 'the reader comes late' '0 0'
    is 'the reader comes late: the data' "$(cat "$tmp/in")" "$(cat "$tmp/got")"
    left_nothing 'readers'
}

# Longer than any time-out that could cut them: begun first, gathered last.
long_start() {
    mkdir -p "$tmp/long"
    bg LS1 env PASH_RENDEZVOUS="dir:$tmp/long" sh -c "seq 3000000 | $P send stalled 0 1"
    bg LR1 env PASH_RENDEZVOUS="dir:$tmp/long" sh -c "$P recv stalled 1 0 | { sleep 70; tail -n 1; }"
    bg LS2 env PASH_RENDEZVOUS="dir:$tmp/long" sh -c "{ echo a; sleep 70; echo b; } | $P send idle 0 1"
    bg LR2 env PASH_RENDEZVOUS="dir:$tmp/long" sh -c "$P recv idle 1 0"
    bg LS3 env PASH_RENDEZVOUS="dir:$tmp/long" $P send stopped 0 1 "$tmp/long-fifo"
    bg LR3 env PASH_RENDEZVOUS="dir:$tmp/long" $P recv stopped 1 0 "$tmp/long-out"
    mkfifo "$tmp/long-o4"
    bg LS4 env PASH_RENDEZVOUS="dir:$tmp/long" sh -c "seq 10 | $P send late 0 1"
    bg LR4 env PASH_RENDEZVOUS="dir:$tmp/long" $P recv late 1 0 "$tmp/long-o4"
    if command -v python3 >/dev/null; then
        bg LS5 env PASH_RENDEZVOUS="dir:$tmp/long" sh -c "seq 100000 | $P send tty 0 1"
        bg LR5 env PASH_RENDEZVOUS="dir:$tmp/long" python3 "$tmp/terminal.py" $P recv tty 1 0
    fi
    # a receiver that is stopped for good: its machine may as well have vanished
    until_true grep -q connected "$tmp/LR3.err"
    stopped=$(below "$(pid LR3)")
    for p in $stopped; do kill -STOP "$p"; done
    long_began=$(date +%s)
    (
        sleep 20
        before=$(switches LS2 LR2)
        sleep 20
        echo $(($(switches LS2 LR2) - before)) >"$tmp/idle"
    ) &
}
mkfifo "$tmp/long-fifo"
t_long() {
    [ -n "${long_began-}" ] || long_start
    while [ $(($(date +%s) - long_began)) -lt 72 ]; do sleep 1; done
    cat "$tmp/long-o4" >"$tmp/got"
    for i in 1 2 4; do
        ended LS$i
        sent=$status
        ended LR$i
        is "long $i: exit statuses" '0 0' "$sent $status"
    done
    is 'a reader that stalls for 70 s' 3000000 "$(cat "$tmp/LR1.out")"
    is "an idle stream sleeps: it woke $(cat "$tmp/idle") times in 20 s" 1 $(($(cat "$tmp/idle") <= 8))
    is 'a stream that is idle for 70 s' 'a b' "$(tr '\n' ' ' <"$tmp/LR2.out" | sed 's/ $//')"
    is 'a FIFO whose reader comes after 72 s' 10 "$(tail -n 1 "$tmp/got")"
    if python 'a terminal that stalls'; then
        ended LS5
        sent=$status
        ended LR5
        is 'a terminal that stalls for 65 s' '0 0 588895' "$sent $status $(cat "$tmp/LR5.out")"
    fi
    ended LS3
    is 'a receiver that says nothing for 60 s' 1 "$status"
    has 'a receiver that says nothing: told' "$tmp/LS3.err" '^pashlib: send stopped: connection lost after 0 bytes: output is incomplete$'
    for p in $stopped; do kill -CONT "$p"; done
    ended LR3
    is 'a receiver that comes back' 1 "$status"
}

# ---- processes ----

t_processes() {
    seq 1000 >"$tmp/in"
    rm -rf "$tmp/rdv"
    # killed ends
    mkfifo "$tmp/f1"
    for which in S R; do
        rm -f "$tmp/got"
        bg S sh -c "exec $P send k 0 1 <$tmp/f1"
        bg R $P recv k 1 0 "$tmp/got"
        exec 9>"$tmp/f1"
        echo data >&9
        until_true test -s "$tmp/got"
        kill -9 "$(pid $which)"
        ended S
        sent=$status
        ended R
        if [ $which = S ]; then is 'a killed sender does not look like the end' '137 1' "$sent $status"
        else is 'a killed receiver is noticed' '1 137' "$sent $status"; fi
        exec 9>&-
    done
    has 'a killed sender: told' "$tmp/S.err" 'connection lost after 5 bytes: output is incomplete'
    rm "$tmp/f1"
    # signals: ended by them, registration withdrawn, no process left
    for sig in TERM HUP PIPE; do
        case $sig in TERM) want=143 ;; HUP) want=129 ;; PIPE) want=141 ;; esac
        bg S sh -c "exec $P send k 0 1 $tmp/in"
        until_true test -f "$tmp/rdv/k/N_0"
        children=$(below "$(pid S)")
        is "SIG$sig: two processes a stream" 2 "$(echo "$children" | wc -l)"
        kill -$sig "$(pid S)"
        ended S
        is "SIG$sig: ended by it" "$want" "$status"
        for p in $children; do kill -0 "$p" 2>/dev/null && fail "SIG$sig: process $p is left"; done
        left_nothing "SIG$sig"
    done
    bg S sh -c "trap '' HUP; exec $P send k 0 1 $tmp/in"
    until_true test -f "$tmp/rdv/k/N_0"
    kill -HUP "$(pid S)"
    sleep 0.3
    is 'nohup: SIGHUP stays ignored' yes "$(kill -0 "$(pid S)" && echo yes)"
    bg R "$P" recv k 1 0 "$tmp/got"
    both 'nohup: the stream is carried' '0 0'
    bg S "$P" send k 0 1 "$tmp/in"
    until_true test -f "$tmp/rdv/k/N_0"
    children=$(below "$(pid S)")
    kill -9 "$(pid S)"
    ended S
    gone() { for p in $children; do ! kill -0 "$p" 2>/dev/null || return 1; done; }
    until_true gone
    is 'SIGKILL leaves no process' 0 $?
    rm -rf "$tmp/rdv"
    # after a signal nothing is written any more
    bg S $P send k 0 1 /dev/zero
    bg R $P recv k 1 0 "$tmp/got"
    until_true test -s "$tmp/got"
    children=$(below "$(pid R)")
    kill "$(pid R)"
    ended R
    is 'after a signal no process is left' '143 0' "$status $(for p in $children; do kill -0 "$p" 2>/dev/null && echo "$p"; done | wc -l)"
    ended S
    is 'and the sender knows' 1 "$status"
    # a stream's process that dies takes its registration with it
    bg S "$P" send k 0 1 "$tmp/in"
    until_true test -f "$tmp/rdv/k/N_0"
    for p in $(below "$(pid S)"); do
        if grep -q SigIgn "/proc/$p/status" && [ "$(awk '/SigBlk/ { print $2 }' "/proc/$p/status")" = 0000000000000000 ]; then kill -9 "$p"; fi
    done
    ended S
    is "a stream's process is killed" 1 "$status"
    has "a stream's process is killed: told" "$tmp/S.err" '^pashlib: send k: its process ended by signal 9$'
    left_nothing "a stream's process is killed"
    # nobody but a stream's own process holds its ends
    mkfifo "$tmp/f2"
    bg S sh -c "seq 3 | $P send*a*0*1*- send*b*0*1*$tmp/f2"
    bg R sh -c "$P recv*a*1*0*- recv*b*1*0*$tmp/got | tail -n 1"
    until_true grep -q 3 "$tmp/R.out"
    is 'downstream sees the end while another stream goes on' 3 "$(cat "$tmp/R.out")"
    echo x >"$tmp/f2"
    both 'and that one ends, too' '0 0'
    # many streams, both ways, of different lengths of life
    for count in 32 256; do
        a='' b=''
        i=0
        while [ $i -lt $count ]; do
            i=$((i + 1))
            seq $((i * 37)) >"$tmp/m$i.in"
            if [ $((i % 2)) = 0 ]; then a="$a send*m$i*0*1*$tmp/m$i.in" b="$b recv*m$i*1*0*$tmp/m$i.got"
            else a="$a recv*m$i*0*1*$tmp/m$i.got" b="$b send*m$i*1*0*$tmp/m$i.in"; fi
        done
        # shellcheck disable=SC2086 # words
        bg S env PASH_LOG=error $P $a
        # shellcheck disable=SC2086
        bg R env PASH_LOG=error $P $b
        both "$count streams" '0 0'
        bad=0
        while [ $i -gt 0 ]; do
            cmp -s "$tmp/m$i.in" "$tmp/m$i.got" || bad=$((bad + 1))
            i=$((i - 1))
        done
        is "$count streams: the data" 0 $bad
        is "$count streams: nothing is said at level error" '' "$(cat "$tmp/S.err" "$tmp/R.err")"
        left_nothing "$count streams"
        rm -f "$tmp"/m*.in "$tmp"/m*.got
    done
    # 256 streams and two STUN servers, where 1,024 descriptors must do
    a=$(seq 256 | sed 's/.*/recv*few&*0*1*x/' | tr '\n' ' ')
    # shellcheck disable=SC2086 # words
    run sh -c 'ulimit -n 1024 && exec "$@"' sh env -u PASH_NO_HOLEPUNCH PASH_STUN_SERVER=127.0.0.1:9,127.0.0.1:10 PASH_PEER_TIMEOUT_MS=1 $P $a
    has 'too few descriptors for two STUN servers: told' "$tmp/err" '^pashlib: too few descriptors to ask STUN server 127.0.0.1, too$'
    is 'all 256 have started' 256 "$(grep -c 'did not register' "$tmp/err")"
    # one that fails does not take the others along
    bg S $P "send*good*0*1*$tmp/in" "send*bad*0*1*$tmp/none"
    bg R $P "recv*good*1*0*$tmp/got" "recv*bad*1*0*$tmp/got2"
    both 'one of two streams fails' '1 1'
    is 'the other is carried' "$(sha256sum <"$tmp/in")" "$(sha256sum <"$tmp/got")"
}

# ---- hole punching, in a laboratory of network namespaces ----
#
# Two hosts, each behind a NAT box, and a server between all boxes. Node NAME number N is the host hNAME (10.0.N.2) and its
# box nNAME (203.0.113.N to the outside); the server, "core", has two addresses, and coturn on them. The kinds of box:
#   open     a 1:1 address                              sg       the same behind a stateful filter, as an EC2 security group
#   drop     masquerade that keeps the port, and drops  rst      the same, but resets what it does not know
#            what it does not know, as Lambda           sym      a random port for every connection, from
#   udp, tcp as drop, but the port is taken for UDP or           another range for every destination
#            for TCP: the two get different ones
nat_rules() {                                       # KIND N
    snat='masquerade' dnat='' unknown='drop'
    case $1 in
    open | sg) snat="snat to 203.0.113.$2" dnat="iifname \"out\" ip daddr 203.0.113.$2 dnat to 10.0.$2.2" ;;
    rst) unknown='meta l4proto tcp reject with tcp reset' ;;
    # not one range for all: an end that is refused at once tries hundreds of ports, and one run in fifty hit the peer's by luck
    sym)
        snat=''
        for range in 'ip daddr 203.0.113.1 /10000-19999' 'ip daddr 203.0.113.2 /20000-29999' /30000-59999; do
            snat="$snat oifname \"out\" ${range%/*}meta l4proto { tcp, udp } masquerade to :${range#*/} fully-random;"
        done
        snat="$snat oifname \"out\" masquerade"
        ;;
    udp | tcp) snat="meta l4proto $1 snat to 203.0.113.$2 : $1 sport map { $(awk 'BEGIN { for (i = 0; i < 1000; i++) printf "%s5%04d : 4%04d", i ? ", " : "", i, i }') }; oifname \"out\" masquerade" ;;
    esac
    [ "$1" = open ] && unknown=accept
    cat <<END
    table ip lab {
        chain first { type nat hook prerouting priority -100; $dnat; }
        chain last { type nat hook postrouting priority 100; ip daddr 10.0.0.0/8 accept; oifname "out" $snat; }
        chain inward { ct state established,related accept; $unknown; }
        chain outward { }
        chain cut { type filter hook forward priority -1; }
        chain here { type filter hook input priority 0; iifname "out" jump inward; }
        chain through {
            type filter hook forward priority 0
            iifname "out" jump inward
            oifname "out" jump outward
        }
    }
END
}
on() {                                              # NAMESPACE COMMAND...
    on_ns=$1
    shift
    ip netns exec "$on_ns" "$@"
}
lab_node() {                                        # NAME KIND N [LAG]: LAG ms on its way to the server and back
    ip netns add "h$1" && ip netns add "n$1" || return 1
    ip link add eth0 netns "h$1" type veth peer name in netns "n$1" || return 1
    if [ -n "${4-}" ]; then
        bg "lag$1" python3 "$tmp/lag.py" "n$1" "p$1" "$4"
        until_true ip -n core link show "p$1"
    else
        ip link add out netns "n$1" type veth peer name "p$1" netns core || return 1
    fi
    ip -n "h$1" link set lo up
    ip -n "h$1" addr add "10.0.$3.2/24" dev eth0
    ip -n "h$1" link set eth0 up
    ip -n "h$1" route add default via "10.0.$3.1"
    ip -n "n$1" link set lo up
    ip -n "n$1" addr add "10.0.$3.1/24" dev in
    ip -n "n$1" addr add "203.0.113.$3/32" dev out
    ip -n "n$1" link set in up
    ip -n "n$1" link set out up
    ip -n "n$1" route add 203.0.113.1 dev out
    ip -n "n$1" route add default via 203.0.113.1 dev out onlink
    ip -n core link set "p$1" up
    ip -n core route add "203.0.113.$3" dev "p$1"
    on "n$1" sysctl -qw net.ipv4.ip_forward=1
    case $2 in udp | tcp) on "h$1" sysctl -qw net.ipv4.ip_local_port_range='50000 50999' ;; esac
    nat_rules "$2" "$3" | on "n$1" nft -f -
}
cat >"$tmp/lag.py" <<'END'
# A link with a lag between "out" in namespace argv[1] and argv[2] in core, both TUN devices; argv[3] ms each way.
import ctypes, fcntl, os, select, struct, sys, time
def tun(ns, name):
    with open("/run/netns/" + ns) as f: assert ctypes.CDLL(None).setns(f.fileno(), 0x40000000) == 0
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", name.encode(), 0x1001))  # TUNSETIFF: IFF_TUN | IFF_NO_PI
    return fd
a, b = tun(sys.argv[1], "out"), tun("core", sys.argv[2])
other, queue = {a: b, b: a}, []
while True:
    for fd in select.select([a, b], [], [], max(0, queue[0][0] - time.time()) if queue else None)[0]:
        try: queue.append((time.time() + float(sys.argv[3]) / 1000, other[fd], os.read(fd, 65536)))
        except OSError: pass                            # not up yet
    while queue and queue[0][0] <= time.time():
        try: os.write(*queue.pop(0)[1:])
        except OSError: pass
END
# The program on node $1's host, as deployed, with STUN; settings may come before it: $at NODE [SETTING...] $P ...
at=$tmp/lab-at # no blanks in it
cat >"$at" <<END
#!/bin/sh
node=\$1
shift
exec ip netns exec "h\$node" env -u PASH_NO_HOLEPUNCH -u PASH_PUBLIC_IP PASH_STUN_SERVER=203.0.113.1,203.0.113.2 \
    PASH_RENDEZVOUS=dir:$tmp/lab "\$@"
END
chmod +x "$at"
lab_start() {                                       # 0: there is a laboratory; $lab keeps it
    [ -z "${lab-}" ] || return "$lab"
    lab=1
    need 'the NAT laboratory' ip nft turnserver python3 || return 1
    [ "${PASHLIB_NS-}" = root ] || { skip 'the NAT laboratory' 'it needs root'; return 1; }
    if ! { mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && ip netns add core; }; then
        skip 'the NAT laboratory' 'ip netns add does not work here'
        return 1
    fi
    ip -n core addr add 203.0.113.1/32 dev lo
    ip -n core addr add 203.0.113.2/32 dev lo
    ip -n core link set lo up
    on core sysctl -qw net.ipv4.ip_forward=1
    for port in 3478 19302; do
        bg turn$port ip netns exec core turnserver -n --stun-only --no-cli --no-tls --no-dtls -L 203.0.113.1 -L 203.0.113.2 -p $port \
            --no-stdout-log --log-file=/dev/null --pidfile "$tmp/turn$port"
    done
    number=10
    for node in open1 open2 sg1 sg2 drop1 drop2 sym1 sym2 udp1 udp2 tcp1 tcp2 rst1:20 rst2:20 rst3 vpc1 vpc2 loss10 loss30 loss50 \
        quiet1 quiet2 strict1 strict2 down1 down2 gone1 gone2 imds1 imds2 none1 none2 fixed; do
        number=$((number + 1))
        lag='' kind=drop
        case $node in
        *:*) lag=${node#*:} node=${node%:*} ;;
        esac
        case $node in
        open* | sg* | sym* | udp* | tcp* | rst*) kind=${node%?} ;;
        vpc*) kind=open ;;
        imds* | fixed) kind=sg ;;
        esac
        lab_node "$node" "$kind" "$number" "$lag" || { fail "the NAT laboratory: node $node"; return 1; }
        eval "number_$node=$number"
    done
    answers() { $at drop1 "PASH_STUN_SERVER=203.0.113.1:$1" PASH_STUN_TIMEOUT_MS=500 $P addr | grep -q source=stun; }
    for port in 3478 19302; do
        until_true answers $port || { fail "the NAT laboratory: coturn does not answer at $port"; return 1; }
    done
    echo word >"$tmp/word"
    lab=0
}
outside() { eval "echo 203.0.113.\$number_$1"; }
inside() { eval "echo 10.0.\$number_$1"; }
sever() { on "n$1" nft add rule ip lab cut drop; }    # NODE: nothing passes its box until ...
mend() { on "n$1" nft flush chain ip lab cut; }
meet() {                                            # A B RUNS SETTING...: A with B; a line each in $tmp/meet.A.B
    meet_a=$1 meet_b=$2 meet_runs=$3
    shift 3
    for run in $(seq "$meet_runs"); do
        # each of them is the later one in turn, and has the lower number in turn
        if [ $((run % 2)) = 0 ]; then early=$meet_a late=$meet_b; else early=$meet_b late=$meet_a; fi
        me=$((1 + run / 2 % 2))
        k=$meet_a.$meet_b.$run
        $at "$early" "$@" $P send "$k" $me $((3 - me)) "$tmp/word" 2>"$tmp/$k.early" &
        until_true test -f "$tmp/lab/$k/N_$me"
        since=$(date +%s%N)
        $at "$late" "$@" $P recv "$k" $((3 - me)) $me "$tmp/$k.out" 2>"$tmp/$k.late"
        got=$?
        wait $!
        echo "$? $got $((($(date +%s%N) - since) / 1000000)) $(cmp "$tmp/word" "$tmp/$k.out" >&2 && echo same)"
    done >"$tmp/meet.$meet_a.$meet_b" 2>"$tmp/meet.$meet_a.$meet_b.err"
}
met() {                                             # A B RUNS: they did, each time, within a second
    median=$(sort -n -k 3 "$tmp/meet.$1.$2" | awk '{ ms[NR] = $3 } END { print ms[int((NR + 1) / 2)] / 1000 }')
    good=$(grep -c '^0 0 .* same$' "$tmp/meet.$1.$2")
    is "$1 with $2: $3 runs of $3" "$3" "$good"
    is "$1 with $2: within 1 s of the start of the later one" '' "$(awk '$3 >= 1000' "$tmp/meet.$1.$2")"
    printf '# %s with %s: %d of %d, median %.3f s\n' "$1" "$2" "$good" "$3" "$median"
}
never() {                                           # A B: no hole can be punched, and they say so; started as V1A.B and V2A.B
    v=$1.$2
    ended "V1$v"
    first=$status
    ended "V2$v"
    is "$1 with $2: both fail" '1 1' "$first $status"
    for end in 1 2; do
        has "$1 with $2: both ends' addresses, and what was tried" "$tmp/V$end$v.err" \
            "no connection to node $((3 - end)) (external 203.0.113.[0-9]*:[0-9]*, local 10.0.[0-9]*.2:[0-9]*) from 203.0.113.[0-9]*:[0-9]* within [27][.0-9]* s: [0-9]* \(attempts timed out\|refused\)"
    done
    mapped='; the NAT here gives a different port to every destination (mapping=endpoint-dependent)$'
    case $1 in sym*) has "$1 with $2: why" "$tmp/V1$v.err" "$mapped" ;; *) hasnt "$1 with $2: why" "$tmp/V1$v.err" "$mapped" ;; esac
    case $2 in sym*) has "$1 with $2: why" "$tmp/V2$v.err" "$mapped" ;; *) hasnt "$1 with $2: why" "$tmp/V2$v.err" "$mapped" ;; esac
}
real() {                                            # NODE SETTING...: pashlib addr there, all else as it comes
    real_node=$1
    shift
    run ip netns exec "h$real_node" env -i "PATH=$PATH" "$@" $P addr
    is "$real_node, $*: exit 0" 0 $status
}
lossy() {                                           # NAME NODE MOST: how many of 128 streams may find no answer; see nat_start
    ended "$1"
    found=$(grep -c 'STUN discovery succeeded' "$tmp/$1.err")
    is "$1: STUN or fallback" 128 $((found + $(grep -c 'Fallback succeeded' "$tmp/$1.err")))
    is "$1: $found of 128 are found, as the schedule allows" 1 $((128 - found <= $3))
    is "$1: and no wrong address" '' "$(sed -n 's/.*STUN discovery succeeded - //p' "$tmp/$1.err" |
        awk -v ip="$(outside "$2")" '{ split($2, l, ":"); split($4, e, ":"); if (e[1] != ip || e[2] != l[2]) print }')"
    is "$1: packets were lost" 1 $(($(on "n$2" nft list chain ip lab outward | sed -n 's/.*packets \([0-9]*\) .*/\1/p') > 0))
}

# What takes long: begun first, gathered last.
nat_start() {
    lab_start || return
    # idle for 60 s, through boxes that forget after 45 s; and boxes that forget after 5 s, to show that they do
    for box in quiet1:45 quiet2:45 strict1:5 strict2:5; do
        on "n${box%:*}" sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_established="${box#*:}" net.netfilter.nf_conntrack_tcp_loose=0
    done
    bg NS1 sh -c "{ echo a; sleep 60; echo b; } | $at quiet1 $P send quiet 1 2"
    bg NR1 "$at" quiet2 $P recv quiet 2 1
    bg NS2 sh -c "{ echo a; sleep 10; echo b; sleep 100; } | $at strict1 $P send strict 1 2"
    bg NR2 "$at" strict2 $P recv strict 2 1
    # a link that comes back after 5 s, and one that does not
    bg NS3 sh -c "for i in \$(seq 200); do seq 2000; sleep 0.05; done | $at down1 $P send down 1 2"
    bg NR3 "$at" down2 $P recv down 2 1
    bg NS4 sh -c "yes | $at gone1 $P send gone 1 2"
    bg NR4 "$at" gone2 $P recv gone 2 1 "$tmp/gone"
    # the second end starts later
    for later in 0 1 5 20; do
        bg "NS5$later" "$at" drop1 PASH_PEER_TIMEOUT_MS=60000 $P send later$later 1 2 "$tmp/word"
        bg "NR5$later" sh -c "sleep $later; exec $at drop2 $P recv later$later 2 1"
    done
    # loss on the way to the STUN server: of five requests within 8 s one must get through; with a fallback, of two within 750 ms
    for percent in 10 30 50; do
        on nloss$percent nft add rule ip lab outward udp dport 3478 numgen random mod 100 '<' $percent counter drop
        streams=$(seq 128 | sed "s/.*/recv*loss$percent.&*1*2*x/" | tr '\n' ' ')
        # shellcheck disable=SC2086 # words
        bg loss$percent $at loss$percent PASH_STUN_SERVER=203.0.113.1 PASH_PEER_TIMEOUT_MS=1 $P $streams
    done
    # shellcheck disable=SC2086
    bg loss50ip $at loss50 PASH_STUN_SERVER=203.0.113.1 PASH_PUBLIC_IP="$(outside loss50)" PASH_PEER_TIMEOUT_MS=1 $P $streams
    # STUN blocked by DROP and by REJECT; with IMDS there, and with nothing that answers
    for box in imds1:drop imds2:reject none1:drop none2:reject; do
        on "n${box%:*}" nft add rule ip lab outward udp dport '{ 3478, 19302 }' "${box#*:}"
    done
    on nnone1 nft add rule ip lab outward ip daddr 169.254.169.254 drop
    on nnone2 nft add rule ip lab outward ip daddr 169.254.169.254 reject
    for box in imds1 imds2; do
        ip -n n$box addr add 169.254.169.254/32 dev in
        bg $box ip netns exec n$box python3 "$tmp/imds.py" "$tmp/$box" "$(outside $box)"
    done
    echo 127.0.0.1 localhost >"$tmp/hosts"
    echo 203.0.113.1 stun.l.google.com >>"$tmp/hosts"
    mount --bind "$tmp/hosts" /etc/hosts                # of this test alone
    bg none1 ip netns exec hnone1 env -i "PATH=$PATH" $P addr
    until_true test -s "$tmp/NR3.out"
    sever down1
    sleep 5
    mend down1
    until_true test -s "$tmp/gone"
    sever gone2
    gone_since=$(date +%s)
}

t_nat() {
    lab_start || return
    [ -n "${gone_since-}" ] || nat_start
    # where no hole can be punched: beside the others
    for pair in sym1.sym2 sym1.drop2 sg2.sym2 sym2.rst3 tcp2.sym1 tcp1.drop2; do
        bg V1$pair "$at" "${pair%.*}" PASH_CONNECT_TIMEOUT_MS=2000 $P send never.$pair 1 2 "$tmp/word"
        bg V2$pair "$at" "${pair#*.}" PASH_CONNECT_TIMEOUT_MS=2000 $P recv never.$pair 2 1
    done
    for pair in open1.open2 open1.sg1 open1.drop1 sg1.sg2 sg1.drop1 drop1.drop2 sym1.open1 \
        rst1.rst2 rst1.rst3 rst1.drop1 rst1.sg1 rst1.open1; do
        meet "${pair%.*}" "${pair#*.}" 20
        met "${pair%.*}" "${pair#*.}" 20
    done
    for pair in udp1.udp2 udp1.open1 udp1.sg1 udp1.drop1 tcp1.tcp2 tcp1.open1 tcp1.sg1 tcp1.drop1 tcp1.udp1 tcp1.rst3; do
        meet "${pair%.*}" "${pair#*.}" 20 PASH_STUN_SERVER=tcp:203.0.113.1,udp:203.0.113.2
        met "${pair%.*}" "${pair#*.}" 20
    done
    for pair in sym1.sym2 sym1.drop2 sg2.sym2 sym2.rst3 tcp2.sym1 tcp1.drop2; do never "${pair%.*}" "${pair#*.}"; done
    run $at sym1 $P addr
    has 'addr behind sym' "$tmp/out" '^mapping=endpoint-dependent$'
    run $at drop1 $P addr
    has 'addr behind drop' "$tmp/out" '^mapping=endpoint-independent$'
    run $at tcp1 PASH_STUN_SERVER=tcp:203.0.113.1,tcp:203.0.113.2 $P addr
    has 'addr behind tcp' "$tmp/out" "^external_addr=$(outside tcp1):4[0-9]*\$"
    has 'addr behind tcp' "$tmp/out" '^mapping=endpoint-independent$'

    # what README advises: a range of ports that is open at one end
    on nfixed nft insert rule ip lab inward tcp dport 5000-5007 accept
    meet fixed sym2 20 "PASH_PUBLIC_ADDR=$(outside fixed):5000"
    met fixed sym2 20

    # each sees the other by private and by public addresses at once: one connection is chosen, once
    ip -n core route add "$(inside vpc1).0/24" dev pvpc1
    ip -n core route add "$(inside vpc2).0/24" dev pvpc2
    meet vpc1 vpc2 100
    met vpc1 vpc2 100
    is 'two ways to the peer: each end chooses one' 200 "$(cat "$tmp"/vpc1.vpc2.*.early "$tmp"/vpc1.vpc2.*.late | grep -c ': connected to node ')"

    # 32 streams at once, one process an end
    a='' b=''
    for i in $(seq 32); do
        seq $((i * 999)) >"$tmp/n$i.in"
        a="$a send*many$i*1*2*$tmp/n$i.in" b="$b recv*many$i*2*1*$tmp/n$i.out"
    done
    # shellcheck disable=SC2086 # words
    bg S $at drop1 $P $a
    # shellcheck disable=SC2086
    bg R $at sg1 $P $b
    both '32 streams between drop1 and sg1' '0 0'
    for i in $(seq 32); do cmp "$tmp/n$i.in" "$tmp/n$i.out"; done >"$tmp/differ" 2>&1
    is '32 streams between drop1 and sg1: the data' '' "$(cat "$tmp/differ")"

    # two processes at once on one host
    for setting in PASH_LOG=info "PASH_PUBLIC_ADDR=$(outside sg1):5000"; do
        for p in 1 2; do bg S$p "$at" sg1 "$setting" $P send two$p 1 2 "$tmp/word"; done
        for p in 1 2; do bg R$p "$at" sg2 $P recv two$p 2 1; done
        for p in 1 2; do
            ended S$p
            sent=$status
            ended R$p
            is "two processes at once, ${setting%%=*}: $p" '0 0 word' "$sent $status $(cat "$tmp/R$p.out")"
        done
    done
    is 'the ports of PASH_PUBLIC_ADDR' '5000 5001 ' "$(cat "$tmp/S1.err" "$tmp/S2.err" | sed -n 's/.*succeeded - .*external_addr: .*:\(.*\)/\1/p' | sort | tr '\n' ' ')"

    # a registration that is left over, whose address is now another server's
    for stale in 203.0.113.1:3478 "$(outside open2):6000"; do
        bg other "$at" open2 "PASH_PUBLIC_ADDR=$(outside open2):6000" $P recv other 2 1
        until_true test -f "$tmp/lab/other/N_2"
        mkdir -m 700 "$tmp/lab/stale"
        echo "{\"local_addr\":\"203.0.113.2:3478\",\"external_addr\":\"$stale\"}" >"$tmp/lab/stale/N_2"
        bg S "$at" drop1 $P send stale 1 2 "$tmp/word"
        until_true grep -q "connecting from .* to $stale" "$tmp/S.err"
        sleep 0.5
        bg R "$at" sg1 $P recv stale 2 1
        both "left over: $stale" '0 0'
        is "left over: $stale: the data" word "$(cat "$tmp/R.out")"
        stop other
        rm -rf "$tmp/lab/stale" "$tmp/lab/other"
    done

    # the defaults
    real open1
    is 'stun.l.google.com:19302' "$(outside open1) stun" "$(sed -n 's/external_addr=\(.*\):.*/\1/p; s/source=//p' "$tmp/out" | tr '\n' ' ' | sed 's/ $//')"
    for box in imds1 imds2; do
        real $box
        is "$box: the address of IMDS" "$(outside $box) imds" "$(sed -n 's/external_addr=\(.*\):.*/\1/p; s/source=//p' "$tmp/out" | tr '\n' ' ' | sed 's/ $//')"
        has "$box: why not STUN" "$tmp/err" "STUN discovery failed: stun.l.google.com:19302: "
        has "$box: says so" "$tmp/err" "AWS metadata service returned public IP: $(outside $box)\$"
    done
    meet imds1 imds2 5 PASH_STUN_SERVER= AWS_EC2_METADATA_DISABLED=
    is 'imds1 with imds2: 5 runs of 5' 5 "$(grep -c '^0 0 .* same$' "$tmp/meet.imds1.imds2")"
    for box in none1 none2; do
        real $box "PASH_PUBLIC_IP=$(outside $box)"
        has "$box: PASH_PUBLIC_IP" "$tmp/out" '^source=PASH_PUBLIC_IP$'
    done
    real none2
    has 'none2: local' "$tmp/out" '^source=local$'
    has 'none2: why' "$tmp/err" 'AWS metadata query failed: 169.254.169.254:80: Connection refused'
    ended none1
    is 'none1: exit 0' 0 "$status"
    has 'none1: local' "$tmp/none1.out" '^source=local$'
    has 'none1: why' "$tmp/none1.err" 'STUN discovery failed: stun.l.google.com:19302: no answer within 8000 ms'
    has 'none1: why' "$tmp/none1.err" 'AWS metadata query failed: 169.254.169.254\(:80: Connection timed out\|: no answer within 2 s\)'

    lossy loss10 loss10 1                               # p^5 of 128: 0.001 expected
    lossy loss30 loss30 5                               # 0.3
    lossy loss50 loss50 16                              # 4
    lossy loss50ip loss50 60                            # p^2: 32
    for later in 0 1 5 20; do
        ended NS5$later
        sent=$status
        ended NR5$later
        is "the second end starts $later s later" '0 0 word' "$sent $status $(cat "$tmp/NR5$later.out")"
    done
    ended NS3
    sent=$status
    ended NR3
    is 'a link that is down for 5 s' '0 0' "$sent $status"
    is 'a link that is down for 5 s: the data' "$(for i in $(seq 200); do seq 2000; done | cksum)" "$(cksum <"$tmp/NR3.out")"
}

# The rest of it, after everything else.
t_nat_long() {
    lab_start || return
    [ -n "${gone_since-}" ] || nat_start
    while [ ! -f "$tmp/NS1.rc" ] || [ ! -f "$tmp/NS2.rc" ] || [ ! -f "$tmp/NR2.rc" ] || [ ! -f "$tmp/NS4.rc" ] || [ ! -f "$tmp/NR4.rc" ]; do
        [ $(($(date +%s) - gone_since)) -lt 100 ] || break
        sleep 1
    done
    ended NS1
    sent=$status
    ended NR1
    is 'idle for 60 s, boxes that forget after 45 s' '0 0 a b ' "$sent $status $(tr '\n' ' ' <"$tmp/NR1.out")"
    ended NS2
    sent=$status
    ended NR2
    is 'boxes that forget after 5 s' '1 1' "$sent $status"
    has 'boxes that forget after 5 s: the sender' "$tmp/NS2.err" 'connection lost after 4 bytes: output is incomplete$'
    has 'boxes that forget after 5 s: the receiver' "$tmp/NR2.err" 'connection lost after 2 bytes: output is incomplete$'
    ended NS4
    sent=$status
    ended NR4
    is 'a link that is gone for good' '1 1' "$sent $status"
    has 'a link that is gone for good: the sender' "$tmp/NS4.err" 'connection lost after [1-9][0-9]* bytes: output is incomplete$'
    has 'a link that is gone for good: the receiver' "$tmp/NR4.err" "connection lost after $(wc -c <"$tmp/gone") bytes: output is incomplete\$"
    is 'within 60 s of the last word, and 15 s more for the receiver' 1 \
        $(($(stat -c %Y "$tmp/NS4.rc") - gone_since <= 65 && $(stat -c %Y "$tmp/NR4.rc") - gone_since <= 80))
}

# ---- trust: hostile input, faults, what it may touch ----

# Fuzzing: FUZZ_SECONDS (20) for each target, FUZZ_TARGETS (all); libFuzzer with the address and undefined behaviour sanitizers.
fuzz_targets='stun stuntcp http json address hello frames stream settings'
fuzz_build() {
    cat >"$tmp/fuzz.c" <<'END'
#define _GNU_SOURCE
#include <ctype.h>
#include <strings.h>
static int plain_strncasecmp(const char *a, const char *b, unsigned long n) {  /* clang 14's libFuzzer crashes in its hook for libc's */
    for (; n && *a && tolower((unsigned char)*a) == tolower((unsigned char)*b); a++, b++) n--;
    return n ? tolower((unsigned char)*a) - tolower((unsigned char)*b) : 0;
}
#define strncasecmp plain_strncasecmp
#define main pashlib_main
#include "pashlib.c"
#undef main
static const char *target = "";
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc; (void)argv;
    target = getenv("FUZZ");
    set.level = -1;                                     /* quiet */
    return 0;
}
static void feed(int fd[2], const uint8_t *data, size_t n) {        /* the bytes, then the end */
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) < 0) abort();
    if (write(fd[1], data, n) != (ssize_t)n) abort();
    shutdown(fd[1], SHUT_WR);
    set_nonblocking(fd[0]);
}
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const unsigned char id[12] = { 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae };
    char why[WHY_MAX], out[256], *text;
    int fd[2];
    if (n > 60000) return 0;
    text = malloc(n + 1);                               /* of its very length, so that the sanitizer sees each step too far */
    memcpy(text, data, n);
    text[n] = 0;
    if (!strcmp(target, "stun")) {
        struct addr a;
        unsigned char *m = malloc(n ? n : 1);
        memcpy(m, data, n);
        if (stun_decode(m, n, id, &a, why) == STUN_ADDRESS && !addr_usable(&a)) abort();
        free(m);
    } else if (!strcmp(target, "stuntcp")) {
        static struct query q;
        q = (struct query){ .state = QUERY_WAITS, .tcp = 1, .sends = 1 };
        memcpy(q.id, id, sizeof id);
        feed(fd, data, n);
        q.fd = fd[0];
        for (int i = 0; i < 5000 && q.fd >= 0 && q.state == QUERY_WAITS; i++) stun_read(&q);
        if (q.fd >= 0 && q.state == QUERY_WAITS) abort();       /* it must have seen the end */
        close_fd(&q.fd);
        close(fd[1]);
    } else if (!strcmp(target, "http")) {
        for (int ended = 0; ended < 2; ended++) {
            struct http h;
            char *m = malloc(n + 1);
            memcpy(m, data, n);
            if (http_decode(m, n, ended, &h, why) && h.body + h.body_len > n) abort();
            free(m);
        }
    } else if (!strcmp(target, "json")) {
        static const char *const paths[] = { "a", "Attributes/N_1/S", "Item/N_2147483647/S", "__type", "" };
        char *m = malloc(n ? n : 1);
        memcpy(m, data, n);
        for (size_t i = 0; i < COUNT(paths); i++)
            if (json_find(m, n, paths[i], out, sizeof out) && !memchr(out, 0, sizeof out)) abort();
        struct addr a = registration_get(m, n, "local_addr");
        if (a.port && !addr_usable(&a)) abort();
        free(m);
    } else if (!strcmp(target, "address")) {
        struct addr a, b;
        if (addr_parse(text, &a) && (!addr_parse(SHOW(&a), &b) || !addr_same(&a, &b))) abort();
        ip_parse(text, &a);
        registration_get(text, n, "external_addr");
    } else if (!strcmp(target, "hello")) {
        struct stream s = { .key = "k", .me = 1, .peer = 2, .stun = -1 };
        static struct punch p;
        p = (struct punch){ .s = &s, .chosen = -1, .why = why };
        struct conn c = { .step = STEP_HELLO, .end = after(MS_MAX) };
        if (n >= HELLO) hello_check(&s, data, why);
        feed(fd, data, n);
        c.fd = fd[0];
        hello_encode(&s, c.mine);
        conn_event(&p, &c);
        if (p.chosen >= 0) abort();                     /* without the key */
        close_fd(&c.fd);
        close(fd[1]);
    } else if (!strcmp(target, "frames")) {
        struct stream s = { .key = "k", .path = "-" };
        struct flow f = { .s = &s, .sock = -1, .opening = { 0, -1 }, .streams = 1, .buf = malloc(PASHLIB_BUFFER + 12) };
        feed(fd, data, n);
        f.sock = fd[0];
        flow_open(&f, open("/dev/null", O_WRONLY));
        if (recv_frames(&f, why) > 0 && f.moved > n) abort();
        close(f.fd); close(fd[0]); close(fd[1]);
        free(f.buf);
    } else if (!strcmp(target, "stream")) {
        struct stream s;
        if (strlen(text) == n) stream_split(&s, text);
        is_utf8(text);
    } else if (!strcmp(target, "settings")) {
        for (const struct setting *t = table; t < table + COUNT(table); t++) if (*text) t->parse(t->at, text, why);
    } else abort();
    free(text);
    return 0;
}
END
    clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -I. -o "$tmp/fuzz" "$tmp/fuzz.c" >"$tmp/fuzz.log" 2>&1 || return 1
    # seeds: RFC 5769, 2.2 and 2.3; what the fakes answer; what is written down in README
    mkdir -p "$tmp/seeds"
    xxd_() { printf '%b' "$(echo "$1" | sed 's/../\\x&/g')"; }
    for t in stun stuntcp; do
        mkdir -p "$tmp/seeds/$t"
        xxd_ 0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96 >"$tmp/seeds/$t/v4"
        xxd_ 010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c >"$tmp/seeds/$t/v6"
        xxd_ 011100142112a442b7e7a701bc34d686fa87dfae000900100000041455 >"$tmp/seeds/$t/error"
    done
    mkdir -p "$tmp/seeds/http" "$tmp/seeds/json" "$tmp/seeds/address" "$tmp/seeds/hello" "$tmp/seeds/frames" "$tmp/seeds/stream" "$tmp/seeds/settings"
    printf 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello' >"$tmp/seeds/http/1"
    printf 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n' >"$tmp/seeds/http/2"
    printf 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0xffffffffffffffff\r\nX0\r\n\r\n' >"$tmp/seeds/http/3"
    printf '{"Attributes":{"key":{"S":"k"},"N_1":{"S":"{\\"local_addr\\":\\"127.0.0.1:5\\"}"}},"a":[1,null,{"b":"\\u00e9\\ud83d\\ude00"}]}' >"$tmp/seeds/json/1"
    printf '{"__type":"com.amazonaws#X","local_addr":"[::1]:4"}' >"$tmp/seeds/json/2"
    printf '203.0.113.7:5000' >"$tmp/seeds/address/1"
    printf '[2001:db8::7]:5000' >"$tmp/seeds/address/2"
    { printf 'PASHLIB1\2\0\0\0\0\0\0\2\0\0\0\1'; head -c 49 /dev/zero; } >"$tmp/seeds/hello/1"
    printf '\0\0\0\5hello\0\0\0\0\0\0\0\0\0\0\0\5' >"$tmp/seeds/frames/1"
    printf 'send*key*1*2*/tmp/a b' >"$tmp/seeds/stream/1"
    i=0
    for v in 'udp:a.b:3478,tcp:[::1]' dir:/tmp/x dynamodb:rdv http://127.0.0.1:8000/x 8000 info true 203.0.113.7; do
        i=$((i + 1))
        printf %s "$v" >"$tmp/seeds/settings/$i"
    done
}
fuzz_start() {
    need 'fuzzing' clang || return 1
    fuzz_build || { skip 'fuzzing' "no libFuzzer: $(grep -m1 -i -e error -e cannot "$tmp/fuzz.log")"; return 1; }
    for t in ${FUZZ_TARGETS-$fuzz_targets}; do
        mkdir -p "$tmp/corpus/$t"
        bg "fuzz-$t" env FUZZ="$t" nice "$tmp/fuzz" -max_total_time="${FUZZ_SECONDS-20}" -max_len=4096 -timeout=10 -rss_limit_mb=1024 \
            -artifact_prefix="$tmp/fuzz-$t-" "$tmp/corpus/$t" "$tmp/seeds/$t"
    done
    fuzzing=1
}
t_fuzz() {
    [ -n "${fuzzing-}" ] || fuzz_start || return
    for t in ${FUZZ_TARGETS-$fuzz_targets}; do
        tries=0
        while [ ! -f "$tmp/fuzz-$t.rc" ] && [ $tries -lt $((${FUZZ_SECONDS-20} * 4 + 60)) ]; do
            sleep 1
            tries=$((tries + 1))
        done
        ended "fuzz-$t"
        is "fuzzing $t: $(sed -n 's/^Done \([0-9]*\) runs.*/\1 runs/p' "$tmp/fuzz-$t.err")" 0 "$status"
        [ "$status" = 0 ] || tail -30 "$tmp/fuzz-$t.err"
    done
}

# System calls that fail, by a library that is loaded before libc: the first, second and tenth of each.
t_faults() {
    python 'failing system calls' || return
    cat >"$tmp/faults.c" <<'END'
/* FAIL="NAME N ERRNO": the Nth call of NAME fails. FAIL="eintr N": one in N of the calls that can wait is interrupted. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
static char which[32];
static int nth, error, calls, count, begun;              /* count: as random as it need be */
static int fails(const char *name, int waits) {
    const char *f = begun++ ? NULL : getenv("FAIL");
    if (f) sscanf(f, "%31s %d %d", which, &nth, &error);
    int saved = errno;
    count = (int)(count * 1103515245U + 12345U);
    if (waits && !strcmp(which, "eintr") && (count >> 16 & 0x7fff) % nth == 0) { errno = EINTR; return 1; }
    if (strcmp(which, name) || ++calls != nth) { errno = saved; return 0; }
    errno = error;
    return 1;
}
#define WRAP(type, name, waits, params, args) type name params { \
    static type (*real) params; \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name); \
    return fails(#name, waits) ? (type)-1 : real args; }
WRAP(int, socket, 0, (int a, int b, int c), (a, b, c))
WRAP(int, socketpair, 0, (int a, int b, int c, int *d), (a, b, c, d))
WRAP(int, bind, 0, (int a, const struct sockaddr *b, socklen_t c), (a, b, c))
WRAP(int, listen, 0, (int a, int b), (a, b))
WRAP(int, accept, 0, (int a, struct sockaddr *b, socklen_t *c), (a, b, c))
WRAP(int, connect, 0, (int a, const struct sockaddr *b, socklen_t c), (a, b, c))
WRAP(int, poll, 1, (struct pollfd *a, nfds_t b, int c), (a, b, c))
WRAP(ssize_t, read, 1, (int a, void *b, size_t c), (a, b, c))
WRAP(ssize_t, write, 1, (int a, const void *b, size_t c), (a, b, c))
WRAP(ssize_t, send, 0, (int a, const void *b, size_t c, int d), (a, b, c, d))
WRAP(ssize_t, recv, 1, (int a, void *b, size_t c, int d), (a, b, c, d))
WRAP(ssize_t, splice, 1, (int a, off64_t *b, int c, off64_t *d, size_t e, unsigned f), (a, b, c, d, e, f))
WRAP(ssize_t, sendmsg, 1, (int a, const struct msghdr *b, int c), (a, b, c))
WRAP(ssize_t, recvmsg, 1, (int a, struct msghdr *b, int c), (a, b, c))
WRAP(pid_t, fork, 0, (void), ())
WRAP(int, mkdir, 0, (const char *a, mode_t b), (a, b))
WRAP(int, rename, 0, (const char *a, const char *b), (a, b))
WRAP(int, getentropy, 0, (void *a, size_t b), (a, b))
WRAP(int, setsockopt, 0, (int a, int b, int c, const void *d, socklen_t e), (a, b, c, d, e))
WRAP(int, dup2, 0, (int a, int b), (a, b))
int open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return fails("open", 0) ? -1 : openat(AT_FDCWD, path, flags, mode);
}
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t);
void *malloc(size_t n) { return begun && fails("malloc", 0) ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t m) { return begun && fails("calloc", 0) ? NULL : __libc_calloc(n, m); }
END
    cat >"$tmp/faults.py" <<'END'
# argv: directory, the program. Each end of a stream, and addr, with each fault. Never a crash, a hang, a process left
# behind, a wrong exit status, or silence; and status 0 only with all of the data.
import concurrent.futures, errno, itertools, os, subprocess, sys, threading
tmp, P = sys.argv[1:3]
CALLS = {"socket": errno.EMFILE, "socketpair": errno.EMFILE, "bind": errno.EACCES, "listen": errno.EADDRINUSE, "accept": errno.EMFILE,
         "connect": errno.EPERM, "poll": errno.ENOMEM, "read": errno.EIO, "write": errno.ENOSPC, "send": errno.ECONNRESET,
         "recv": errno.ECONNRESET, "splice": errno.ENOMEM, "sendmsg": errno.ENOMEM, "recvmsg": errno.ENOMEM,
         "open": errno.EMFILE, "fork": errno.EAGAIN, "mkdir": errno.ENOSPC, "rename": errno.EIO, "getentropy": errno.ENOSYS,
         "setsockopt": errno.ENOPROTOOPT, "dup2": errno.EMFILE, "malloc": errno.ENOMEM, "calloc": errno.ENOMEM}
data = bytes(range(256)) * 3000
with open(tmp + "/fin", "wb") as f: f.write(data)
def env(fail): return dict(os.environ, PASH_PEER_TIMEOUT_MS="2500", PASH_CONNECT_TIMEOUT_MS="2500", **({"FAIL": fail, "LD_PRELOAD": tmp + "/faults.so"} if fail else {}))
def end(p, what, bad):
    try: out, err = p.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        p.kill()
        bad.append("%s hangs" % what)
        return -99, b"", p.communicate()[1]
    if p.returncode not in (0, 1): bad.append("%s: status %d" % (what, p.returncode))
    if p.returncode and not err: bad.append("%s: not a word" % what)
    if b"signal 11" in err or b"signal 6" in err: bad.append("%s: crash" % what)
    return p.returncode, out, err
def stream(i, fail, side, source):
    key, bad = "f%d" % i, []
    given, giver = os.pipe()
    s = subprocess.Popen([P, "send", key, "1", "2"] + ([tmp + "/fin"] if source == "file" else []), env=env(fail if side == "send" else ""),
                         stdin=given, stderr=subprocess.PIPE)
    os.close(given)
    r = subprocess.Popen([P, "recv", key, "2", "1"], env=env(fail if side == "recv" else ""), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    def give():
        try:
            if source != "file": os.write(giver, data)
        except OSError: pass
        os.close(giver)
    threading.Thread(target=give, daemon=True).start()
    rs, out, rerr = end(r, "recv", bad)
    ss, _, serr = end(s, "send", bad)
    if (rs == 0 or ss == 0) and out != data: bad.append("status 0 with %d of %d bytes" % (len(out), len(data)))
    if ss == 0 and rs != 0: bad.append("the sender is content, the receiver not")
    if fail.startswith("eintr") and (ss or rs): bad.append("interrupted, not carried: %d %d" % (ss, rs))
    return ["%s of %s, %s: %s\n%s%s" % (fail, side, source, b, serr.decode(), rerr.decode()) for b in bad]
def addr(i, fail):
    bad = []
    p = subprocess.Popen([P, "addr"], env=dict(env(fail), PASH_NO_HOLEPUNCH="0", PASH_STUN_SERVER="localhost:9,tcp:127.0.0.1:9", PASH_STUN_TIMEOUT_MS="1500",
                         AWS_EC2_METADATA_DISABLED="false", AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1:9"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    status, out, err = end(p, "addr", bad)
    if (status == 0) != (out.count(b"\n") == 3): bad.append("addr: status %d with %r" % (status, out))
    return ["%s: %s\n%s" % (fail, b, err.decode()) for b in bad]
jobs, tried = [], 0
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    for (call, e), n in itertools.product(CALLS.items(), (1, 2, 10)):
        fail = "%s %d %d" % (call, n, e)
        for side, source in (("send", "pipe"), ("send", "file"), ("recv", "pipe")):
            jobs.append(pool.submit(stream, len(jobs), fail, side, source))
        jobs.append(pool.submit(addr, len(jobs), fail))
    for n in (2, 3, 5): 
        for side, source in (("send", "pipe"), ("send", "file"), ("recv", "pipe")): jobs.append(pool.submit(stream, len(jobs), "eintr %d" % n, side, source))
    bad = [b for j in jobs for b in j.result()]
print("%d runs" % len(jobs))
print("\n".join(bad), end="")
sys.exit(bool(bad))
END
    if ! cc -O2 -shared -fPIC -o "$tmp/faults.so" "$tmp/faults.c" -ldl 2>"$tmp/err" || ! cc -O2 -o "$tmp/pfault" pashlib.c 2>>"$tmp/err"; then
        skip 'failing system calls' "the library does not compile: $(head -3 "$tmp/err")"
        return
    fi
    mkdir -p "$tmp/faulty"
    timeout 300 env PASH_RENDEZVOUS="dir:$tmp/faulty/rdv" python3 "$tmp/faults.py" "$tmp" "$tmp/pfault" >"$tmp/out" 2>&1
    is "failing system calls: $(head -n 1 "$tmp/out")" 0 $?
    tail -n +2 "$tmp/out" | head -60 | sed 's/^/# /'
    sleep 0.5
    is 'failing system calls: no process is left' '' "$(pgrep -f "$tmp/pfault " | head -5)"
}

# Soak: SOAK_RUNS (100) transfers in a row, then 64 at once for SOAK_SECONDS (10), either end killed now and then.
t_soak() {
    python 'soak' || return
    cat >"$tmp/soak.py" <<'END'
# argv: directory, program, transfers in a row, seconds. A stream is whole and 0 at both ends, or 1 at the end that lives.
import os, random, signal, subprocess, sys, threading, time
tmp, P, rows, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
random.seed(7)
block = os.urandom(1 << 20)
bad, whole, cut, lock = [], 0, 0, threading.Lock()
def stream(key, data, victim=None, after=0.0):
    s = subprocess.Popen([P, "send", key, "1", "2"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    r = subprocess.Popen([P, "recv", key, "2", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    kill = {"s": s, "r": r}.get(victim)
    timer = threading.Timer(after, lambda: kill.poll() is None and kill.send_signal(random.choice([signal.SIGKILL, signal.SIGTERM]))) if kill else None
    if timer: timer.start()
    def give():
        try: s.stdin.write(data)
        except OSError: pass
        try: s.stdin.close()
        except OSError: pass
    feeder = threading.Thread(target=give); feeder.start()
    said = []
    quiet = threading.Thread(target=lambda: said.append(s.stderr.read())); quiet.start()
    loud = threading.Thread(target=lambda: said.append(r.stderr.read())); loud.start()
    out = r.stdout.read()
    codes = s.wait(), r.wait()
    feeder.join(); quiet.join(); loud.join()
    if timer: timer.cancel()
    for p in (s, r): p.stderr.close()
    r.stdout.close()
    killed = [c < 0 for c in codes]
    if any(killed) and not all(killed):
        alive = codes[0 if killed[1] else 1]
        # the one that lives: 1; or 0 at the receiver with all the data, if the sender was killed once it had sent it all
        if alive == 0 and (out != data or killed[1] and not len(out) == len(data)): return "%s: %r with %d of %d bytes" % (key, codes, len(out), len(data)), 0
        if alive not in (0, 1): return "%s: %r %r" % (key, codes, said), 0
        return None, 0
    if codes != (0, 0) or out != data: return "%s: %r with %d of %d bytes %r" % (key, codes, len(out), len(data), said), 0
    return None, 1
def note(result):
    global whole, cut
    with lock:
        if result[0]: bad.append(result[0])
        elif result[1]: whole += 1
        else: cut += 1
fds = len(os.listdir("/proc/self/fd"))
for i in range(rows): note(stream("row%d" % i, block[:random.randrange(1 << random.randrange(1, 20))]))
print("%d in a row: %d whole" % (rows, whole), end="")
end, whole = time.monotonic() + seconds, 0
def worker(w):
    n = 0
    while time.monotonic() < end and not bad:
        n += 1
        data = block[:random.randrange(1 << random.randrange(1, 21))] * random.choice((1, 1, 4))
        note(stream("w%d-%d" % (w, n), data, random.choice(("s", "r", None, None)), random.random() * random.choice((0.02, 0.2, 1))))
workers = [threading.Thread(target=worker, args=(w,)) for w in range(64)]
for w in workers: w.start()
for w in workers: w.join()
print("; 64 at once for %g s: %d whole, %d cut by a kill" % (seconds, whole, cut))
if len(os.listdir("/proc/self/fd")) != fds: bad.append("descriptors are left")
print("\n".join(bad), end="")
sys.exit(bool(bad))
END
    cp "$P" "$tmp/psoak"
    timeout 400 env PASH_RENDEZVOUS="dir:$tmp/soak" PASH_PEER_TIMEOUT_MS=8000 PASH_CONNECT_TIMEOUT_MS=8000 \
        python3 "$tmp/soak.py" "$tmp" "$tmp/psoak" "${SOAK_RUNS-100}" "${SOAK_SECONDS-10}" >"$tmp/out" 2>&1
    is "soak: $(head -n 1 "$tmp/out")" 0 $?
    tail -n +2 "$tmp/out" | head -20 | sed 's/^/# /'
    sleep 0.5
    is 'soak: no process is left' '' "$(pgrep -f "$tmp/psoak " | head -5)"
    is 'soak: no port is left' '' "$(ss -Hltnp 2>/dev/null | grep psoak | head -3)"
}

# What it uses and touches: symbols, system calls, files, addresses.
t_audit() {
    if need 'symbols' nm && cc -O2 -c -o "$tmp/x.o" pashlib.c && libc=$(cc -print-file-name=libc.so.6) && [ -f "$libc" ]; then
        nm -D --defined-only "$libc" | awk '{ sub(/@.*/, "", $3); print $3 }' | sort -u >"$tmp/libc"
        is 'no symbol outside libc' '' "$(nm -u "$tmp/x.o" | awk '{ print $2 }' | sort -u | comm -23 - "$tmp/libc" | grep -v '^_GLOBAL_OFFSET_TABLE_$')"
        is 'no program is run, no name can be guessed' '' "$(nm -u "$tmp/x.o" | grep -E ' (exec|system|popen|posix_spawn|tmpnam|mktemp|tempnam|dlopen)')"
    fi
    is 'the words system, popen, exec are not called' '' "$(grep -nE '\b(exec[lv]|system|popen)\w*\(' pashlib.c)"
    need 'system calls' strace || return
    if ! strace -f -o "$tmp/trace" true 2>/dev/null; then skip 'system calls' 'strace does not work here'; return; fi
    start='execve brk mmap munmap mprotect arch_prctl access openat read pread64 close fstat newfstatat set_tid_address set_robust_list rseq prlimit64 exit_group'
    net='socket setsockopt getsockopt bind listen getsockname connect sendto recvfrom poll fcntl getrandom'
    process='clone wait4 kill getpid getppid prctl socketpair sendmsg recvmsg rt_sigaction rt_sigprocmask rt_sigreturn write geteuid'
    calls() { sed -n 's/^[0-9]* *\([a-z_0-9]*\)(.*/\1/p' "$tmp/trace" | sort -u; }
    beyond() { calls | grep -vxF "$(echo "$1" | tr -s ' ' '\n')" | tr '\n' ' '; }
    run strace -f -o "$tmp/trace" env -u PASH_NO_HOLEPUNCH -u PASH_PUBLIC_IP AWS_EC2_METADATA_DISABLED=false AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:9 \
        PASH_STUN_SERVER=127.0.0.1:9,tcp:127.0.0.1:9 $P addr
    is 'addr: system calls' '' "$(beyond "$start $net $process")"
    is 'addr: addresses (203.0.113.1 and 2001:db8::1 are for the kernel to say from where; no packet goes there)' \
        '127.0.0.1:9 2001:db8::1:9 203.0.113.1:9 ' "$(sed -n 's/.* connect(.*htons(\([0-9]*\)).*"\(::ffff:\)*\([0-9a-f.:]*\)".*/\3:\1/p' "$tmp/trace" | sort -u | tr '\n' ' ')"
    is 'addr: one program' 2 "$(grep -c execve "$tmp/trace")"       # env, and it
    rm -rf "$tmp/rdv"
    echo data >"$tmp/in"
    mkfifo "$tmp/audit-in" "$tmp/audit-out"
    bg S strace -f -o "$tmp/trace.s" $P send k 1 2 "$tmp/audit-in"
    bg R strace -f -o "$tmp/trace" $P recv k 2 1 "$tmp/audit-out"
    cat "$tmp/audit-out" >"$tmp/got" &
    cat "$tmp/in" >"$tmp/audit-in"
    both 'a transfer under strace' '0 0'
    cat "$tmp/trace.s" >>"$tmp/trace"
    is 'a transfer: system calls' '' "$(beyond "$start $net $process accept shutdown splice ioctl ppoll dup2 setitimer rt_sigtimedwait clock_nanosleep \
        mkdir rmdir unlink rename")"
    is 'a transfer: one program an end' 2 "$(grep -c execve "$tmp/trace")"
    is 'a transfer: files' '' "$(sed -n 's/.* openat([A-Z_]*, "\([^"]*\)".*/\1/p' "$tmp/trace" | sort -u |
        grep -v -e "^$tmp/rdv/k/" -e "^$tmp/audit-" -e '^/dev/null$' -e '^/etc/ld.so.cache$' -e '/libc.so.6$' -e '/lib.*san')"
    is 'a transfer: addresses' '127.0.0.1 2001:db8::1 203.0.113.1 ' "$(sed -n 's/.* connect(.*htons(\([0-9]*\)).*"\(::ffff:\)*\([0-9a-f.:]*\)".*/\3/p' "$tmp/trace" | sort -u | tr '\n' ' ')"
}

# Under valgrind: addr, and streams from and to FIFOs and files.
t_valgrind() {
    need 'under valgrind' valgrind || return
    cat >"$tmp/vg" <<END
#!/bin/sh
exec valgrind -q --track-fds=yes --error-exitcode=9 --trace-children=yes --log-file=$tmp/vg.%p ./pashlib "\$@"
END
    chmod +x "$tmp/vg"
    seq 100000 >"$tmp/in"
    mkfifo "$tmp/vg-in" "$tmp/vg-out"
    rm -rf "$tmp/rdv"
    run env -u PASH_NO_HOLEPUNCH PASH_STUN_SERVER=localhost:9,tcp:127.0.0.1:9 "$tmp/vg" addr
    is 'addr under valgrind' 0 $status
    bg S "$tmp/vg" "send*a*1*2*$tmp/vg-in" "recv*b*1*2*$tmp/got2" "send*c*1*2*$tmp/none"
    bg R "$tmp/vg" "recv*a*2*1*$tmp/vg-out" "send*b*2*1*$tmp/in" "recv*c*2*1*$tmp/got3"
    cat "$tmp/vg-out" >"$tmp/got" &
    cat "$tmp/in" >"$tmp/vg-in"
    both 'three streams under valgrind, one without input' '1 1'
    is 'under valgrind: the data' '' "$(cmp "$tmp/in" "$tmp/got" 2>&1; cmp "$tmp/in" "$tmp/got2" 2>&1)"
    is 'under valgrind: no error' '' "$(grep -hE 'Invalid|uninitialised|definitely|Syscall param|overlap' "$tmp"/vg.[0-9]* | head -5)"
    is 'under valgrind: at its end no process has more sockets than the listener and the connection of its stream' 1 \
        $(($(grep -c 'Open AF_INET' "$tmp"/vg.[0-9]* | sed 's/.*://' | sort -n | tail -n 1) <= 2))
}

# Other processors: unit tests and a stream, under qemu.
t_machines() {
    [ -f "$tmp/unit.c" ] || t_unit
    head -c 300001 /dev/urandom >"$tmp/in"
    old=$P
    while IFS='|' read -r name cc qemu; do
        need "$name" "${cc%% *}" "$qemu" || continue
        # shellcheck disable=SC2086 # words
        if ! $cc -O2 -static -I. -o "$tmp/unit-$name" "$tmp/unit.c" >"$tmp/out" 2>&1; then skip "$name" "it does not compile: $(head -2 "$tmp/out")"; continue; fi
        # shellcheck disable=SC2086
        $cc -O2 -static -w -o "$tmp/p-$name" pashlib.c 2>"$tmp/out"
        run "$qemu" "$tmp/unit-$name"
        is "unit tests on $name: $(tail -1 "$tmp/out")" 0 $status
        bg S "$qemu" "$tmp/p-$name" send k 0 1 "$tmp/in"
        bg R "$old" recv k 1 0 "$tmp/got"
        both "from $name to here" '0 0'
        is "from $name to here: the data" "$(sha256sum <"$tmp/in")" "$(sha256sum <"$tmp/got")"
        bg S "$old" send k 0 1 "$tmp/in"
        bg R "$qemu" "$tmp/p-$name" recv k 1 0 "$tmp/got"
        both "from here to $name" '0 0'
        is "from here to $name: the data" "$(sha256sum <"$tmp/in")" "$(sha256sum <"$tmp/got")"
    done <<'END'
arm64|aarch64-linux-gnu-gcc|qemu-aarch64
s390x (big-endian)|s390x-linux-gnu-gcc|qemu-s390x
i386|gcc -m32 -idirafter /usr/include/x86_64-linux-gnu|env
END
}

# The groups that carry data, without splice(); and most of all, with sanitizers.
again() {                                           # NAME FLAGS GROUP...
    again_name=$1 old=$P
    # shellcheck disable=SC2086 # flags are words
    if ! ${AGAIN_CC-cc} $2 -o "$tmp/again" pashlib.c 2>"$tmp/out"; then skip "$1" "it does not compile: $(head -2 "$tmp/out")"; return; fi
    shift 2
    P=$tmp/again
    for again_group in "$@"; do
        echo "# $again_group, $again_name"
        "t_$again_group"
        rm -rf "$tmp/rdv" "$tmp/i" "$tmp/o" "$tmp/f1" "$tmp/f2" "$tmp/fifo" "$tmp/audit-in" "$tmp/audit-out"
    done
    P=$old
}
t_portable() { again 'without splice' '-O2 -DPASHLIB_NO_SPLICE' transfer readers; }
t_sanitized() {
    need 'with sanitizers' gcc || return
    AGAIN_CC=gcc again 'with sanitizers' '-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all' \
        cli settings stun imds ports rendezvous dynamodb connect transfer readers processes
}

# ./test.sh coverage: which lines those groups reach; what a signal ends before it could tell counts as not reached
t_coverage() {
    need 'coverage' gcov || return
    printf '#include <unistd.h>\nvoid __gcov_dump(void);\nstatic inline void gcov_exit(int s) { __gcov_dump(); _exit(s); }\n#define _exit gcov_exit\n' >"$tmp/gcov.h"
    AGAIN_CC=gcc again 'with gcov' "-O0 --coverage -D_GNU_SOURCE= -D_FILE_OFFSET_BITS=64 -include $tmp/gcov.h" \
        cli settings stun imds ports rendezvous dynamodb connect transfer readers processes
    gcov -o "$tmp" "$tmp/again-pashlib.gcda" 2>"$tmp/err" | sed -n '/pashlib.c/{n;p;}'
    sed -n 's/^ *#####: *\([0-9]*\):\(.*\)/\1 \2/p' pashlib.c.gcov
    rm -f ./*.gcov
}

# ---- the demo ----

demo() {
    lines=${DEMO_LINES-12000000}
    echo "generating $lines lines ..."
    awk -v n="$lines" 'BEGIN { srand(42); for (i = 0; i < n; i++) printf "%d\n", rand() * 1e8 }' >"$tmp/input"
    echo "$(wc -c <"$tmp/input") bytes; plain sort ..."
    began=$(date +%s%N)
    sort "$tmp/input" >"$tmp/want"
    echo "$((($(date +%s%N) - began) / 1000000)) ms"
    mkdir "$tmp/n0" "$tmp/n1" "$tmp/n2" "$tmp/n3"
    mkfifo "$tmp/n0/a" "$tmp/n0/b" "$tmp/n1/in" "$tmp/n1/out" "$tmp/n2/in" "$tmp/n2/out" "$tmp/n3/a" "$tmp/n3/b"
    began=$(date +%s%N)
    # node 0: the splitter
    $P "send*split1*0*1*$tmp/n0/a" "send*split2*0*2*$tmp/n0/b" &
    p0=$!
    awk -v a="$tmp/n0/a" -v b="$tmp/n0/b" 'NR % 2 { print >a; next } { print >b }' "$tmp/input" &
    # nodes 1 and 2: the workers
    $P "recv*split1*1*0*$tmp/n1/in" "send*sorted1*1*3*$tmp/n1/out" &
    p1=$!
    sort <"$tmp/n1/in" >"$tmp/n1/out" &
    $P "recv*split2*2*0*$tmp/n2/in" "send*sorted2*2*3*$tmp/n2/out" &
    p2=$!
    sort <"$tmp/n2/in" >"$tmp/n2/out" &
    # node 3: the merger
    $P "recv*sorted1*3*1*$tmp/n3/a" "recv*sorted2*3*2*$tmp/n3/b" &
    p3=$!
    sort -m "$tmp/n3/a" "$tmp/n3/b" >"$tmp/got"
    bad=0
    for p in $p0 $p1 $p2 $p3; do wait "$p" || bad=1; done
    echo "split, sorted by two workers, merged: $((($(date +%s%N) - began) / 1000000)) ms"
    if [ $bad = 0 ] && cmp "$tmp/want" "$tmp/got"; then echo 'the result is the same'; return 0; fi
    echo 'the result is NOT the same, or a stream failed'
    return 1
}

# ---- the benchmark ----
#
# ./test.sh bench [CASE...], BENCH_ROUNDS (7) and BENCH_MIB (512): interleaved rounds of pashlib and whatever is there of nc,
# socat; CPU seconds are those of both ends, user and system. single: all on one CPU; sides: producer and sender on one,
# receiver and consumer on the other. In a namespace with loopback alone, and reno: BBR would pace and hide every difference.
bench() {
    [ -n "${PASHLIB_NS-}" ] || { echo 'no namespace could be made'; return 1; }
    sysctl -qw net.ipv4.tcp_congestion_control=reno
    cat >"$tmp/load.c" <<'END'
/* load produce BYTES SIZE FIFO | consume BYTES FIFO: print when they began and ended, in ns; what is consumed is verified
 * load send PORT FIFO | recv PORT FIFO: the barest loop that frames and splices
 * load ping COUNT PAUSE_US OUT IN: a byte there and back; prints the median, in us */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
enum { PERIOD = 65521, BLOCK = 1 << 20 };               /* a prime: no block looks like the one before */
static unsigned char pattern[PERIOD + BLOCK], got[BLOCK];
static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}
static int by_size(const void *a, const void *b) { return (*(long long *)a > *(long long *)b) - (*(long long *)a < *(long long *)b); }
static int ping(int n, int pause, int out, int in) {
    long long *t = calloc((size_t)n, sizeof *t);
    for (int i = 0; i < n; i++) {
        t[i] = -now();
        if (write(out, "x", 1) != 1 || read(in, got, 1) != 1) return 1;
        t[i] += now();
        usleep((unsigned)pause);
    }
    qsort(t, (size_t)n, sizeof *t, by_size);
    printf("%.1f\n", (double)t[n / 2] / 1000);
    return 0;
}
static void die(const char *what) { perror(what); exit(1); }
int main(int argc, char **argv) {
    if (argc < 4) return 2;
    long long total = atoll(argv[2]), done = 0;
    int mode = argv[1][1] == 'i' ? 'i' : argv[1][0];       /* p, c, s, r; i: ping */
    if (mode == 'i') {
        int out = open(argv[4], O_WRONLY);
        return ping(atoi(argv[2]), atoi(argv[3]), out, open(argv[5], O_RDONLY));
    }
    int fd = open(argv[argc - 1], mode == 'p' || mode == 'r' ? O_WRONLY : O_RDONLY);
    if (fd < 0) die(argv[argc - 1]);
    for (unsigned i = 0, x = 1; i < PERIOD; i++, x = x * 1103515245 + 12345) pattern[i] = (unsigned char)(x >> 16);
    memcpy(pattern + PERIOD, pattern, PERIOD);
    for (size_t i = 2 * PERIOD; i < sizeof pattern; i++) pattern[i] = pattern[i - PERIOD];
    if (mode == 'p') {
        long long size = atoll(argv[3]);
        for (printf("%lld\n", now()); done < total; done += size)
            if (write(fd, pattern + done % PERIOD, size) != size) die("produce");
        return 0;
    }
    if (mode == 'c') {
        ssize_t n;
        while ((n = read(fd, got, sizeof got)) > 0) {
            if (memcmp(got, pattern + done % PERIOD, n)) { fprintf(stderr, "wrong data at %lld\n", done); return 1; }
            done += n;
        }
        printf("%lld\n", now());
        return done != total;
    }
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[2])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int s = socket(AF_INET, SOCK_STREAM, 0), one = 1, n, head;
    fcntl(fd, F_SETPIPE_SZ, 1 << 20);
    if (mode == 's') {
        while (connect(s, (void *)&a, sizeof a) < 0) { close(s); s = socket(AF_INET, SOCK_STREAM, 0); usleep(1000); }
        for (;;) {
            if (ioctl(fd, FIONREAD, &n) < 0) die("FIONREAD");
            struct pollfd p = { fd, POLLIN, 0 };
            if (n == 0) {
                poll(&p, 1, -1);
                if (!(p.revents & POLLIN)) return 0;
                continue;
            }
            head = n = n < BLOCK ? n : BLOCK;
            if (send(s, &head, 4, MSG_MORE) != 4) die("send");
            for (ssize_t m; n; n -= (int)m)
                if ((m = splice(fd, NULL, s, NULL, (size_t)n, 0)) <= 0) die("splice");
        }
    }
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(s, (void *)&a, sizeof a) < 0 || listen(s, 1) < 0) die("listen");
    s = accept(s, NULL, NULL);
    while (recv(s, &head, 4, MSG_WAITALL) == 4)
        for (ssize_t m; head; head -= (int)m)
            if ((m = splice(s, NULL, fd, NULL, (size_t)head, 0)) <= 0) die("splice");
    return 0;
}
END
    cat >"$tmp/bench.py" <<'END'
# argv: a directory with load and the builds of the program; rounds; MiB a run; which cases (a part of the name), or all.
import os, select, shutil, statistics, subprocess, sys, time
tmp, rounds, mib, only = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
P, NOSPLICE = tmp + "/pashlib", tmp + "/portable"
median = statistics.median
port = [20000]
def pinned(cpu, argv): return ["taskset", "-c", cpu] + argv
def start(cpu, argv, **kw): return subprocess.Popen(pinned(cpu, argv), stderr=kw.pop("stderr", subprocess.DEVNULL), **kw)
def fifo(name):
    path = "%s/%s" % (tmp, name)
    if os.path.exists(path): os.unlink(path)
    os.mkfifo(path)
    return path
def listening(p):
    with open("/proc/net/tcp") as f: return any(l.split()[3] == "0A" and l.split()[1].endswith(":%04X" % p) for l in f.readlines()[1:])
def run(kind, streams, size, total, cpus):
    port[0] += 100 if port[0] < 30000 else -10000
    ins, outs, procs, movers = [], [], [], []
    for i in range(streams): ins.append(fifo("i%d" % i)); outs.append(fifo("o%d" % i))
    total = total // size * size
    consumers = [start(cpus[1], [tmp + "/load", "consume", str(total), o], stdout=subprocess.PIPE, stderr=None) for o in outs]
    sh = lambda cmd: ["sh", "-c", cmd]
    if kind.startswith("pashlib"):
        binary = NOSPLICE if kind == "pashlib-portable" else P
        shutil.rmtree(tmp + "/rdv", ignore_errors=True)
        movers.append(start(cpus[1], [binary] + ["recv*k%d*2*1*%s" % (i, o) for i, o in enumerate(outs)]))
        movers.append(start(cpus[0], [binary] + ["send*k%d*1*2*%s" % (i, o) for i, o in enumerate(ins)]))
    else:
        for i in range(streams):
            p = port[0] + i
            r = {"nc": "exec nc -l 127.0.0.1 %d >%s" % (p, outs[i]), "bare": "exec %s/load recv %d %s" % (tmp, p, outs[i])}.get(kind) \
                or "exec socat -u -b %s TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr STDOUT >%s" % (kind[5:], p, outs[i])
            movers.append(start(cpus[1], sh(r)))
        for i in range(streams):
            p = port[0] + i
            while not listening(p): time.sleep(0.002)
            s = {"nc": "exec nc -N 127.0.0.1 %d <%s" % (p, ins[i]), "bare": "exec %s/load send %d %s" % (tmp, p, ins[i])}.get(kind) \
                or "exec socat -u -b %s STDIN TCP:127.0.0.1:%d <%s" % (kind[5:], p, ins[i])
            movers.append(start(cpus[0], sh(s)))
    producers = [start(cpus[0], [tmp + "/load", "produce", str(total), str(size), i], stdout=subprocess.PIPE, stderr=None) for i in ins]
    began = min(int(p.communicate()[0]) for p in producers)
    ended = max(int(c.communicate()[0]) for c in consumers)
    cpu = 0.0
    for m in movers:
        _, status, use = os.wait4(m.pid, 0)
        m.returncode = status
        cpu += use.ru_utime + use.ru_stime
        if status: print("# %s ended with %d" % (kind, status))
    if any(p.returncode for p in producers + consumers): sys.exit("%s: the data is not right" % kind)
    gib = total * streams / 2**30
    return cpu / gib, gib / ((ended - began) / 1e9)
def case(name, kinds, streams, size, total, cpus, want):
    if only and not any(o in name for o in only): return
    kinds = [k for k in kinds if k == "bare" or k.startswith("pashlib") or shutil.which(k.rstrip("0123456789"))]
    cpu, speed = {k: [] for k in kinds}, {k: [] for k in kinds}
    for r in range(rounds):
        for k in kinds if r % 2 else kinds[::-1]:
            c, s = run(k, streams, size, total, cpus)
            cpu[k].append(c); speed[k].append(s)
    print("\n%s" % name)
    for k in kinds:
        c, s = median(cpu[k]), median(speed[k])
        print("  %-18s %6.3f CPU s/GiB %6.2f GiB/s (%4.2f to %4.2f)   of nc: CPU %.2f  GiB/s %.2f" % (
            k, c, s, min(speed[k]), max(speed[k]), c / median(cpu["nc"]), s / median(speed["nc"])))
    print("  wanted: " + want, flush=True)
MIB = 2**20
single, sides = ("0", "0"), ("0", "1")
sock = ["socat262144", "socat1048576"]
case("128 KiB writes, single", ["nc", "bare", "pashlib"] + sock, 1, 131072, mib * MIB, single, "CPU 0.20 (1.25 of bare), GiB/s 2.3 (1.7 of socat)")
case("128 KiB writes, sides", ["nc", "bare", "pashlib"], 1, 131072, mib * MIB, sides, "CPU 0.30, GiB/s 1.8")
case("8 streams", ["nc", "pashlib"], 8, 131072, mib * MIB // 4, single, "CPU 0.22, GiB/s 2.0")
case("32 streams", ["nc", "pashlib"], 32, 131072, mib * MIB // 16, single, "CPU 0.22, GiB/s 2.0")
case("100-byte writes, single", ["nc", "pashlib"], 1, 100, mib * MIB // 8, single, "CPU 0.35, GiB/s 1.3")
case("100-byte writes, sides", ["nc", "pashlib"], 1, 100, mib * MIB // 8, sides, "CPU 0.30, GiB/s 1.5")
case("4 KiB writes, single", ["nc", "pashlib"], 1, 4096, mib * MIB, single, "CPU 0.28, GiB/s 2.0")
case("4 KiB writes, sides", ["nc", "pashlib"], 1, 4096, mib * MIB, sides, "CPU 0.55, GiB/s 1.0")
for mtu, w1, w2 in (9001, "CPU 0.40, GiB/s 1.8", "CPU 0.50, GiB/s 1.4"), (1500, "CPU 0.80, GiB/s 1.1", "CPU 0.65, GiB/s 1.1"):
    subprocess.check_call(["ip", "link", "set", "lo", "mtu", str(mtu)])
    case("MTU %d, single" % mtu, ["nc", "pashlib"], 1, 131072, mib * MIB, single, w1)
    case("MTU %d, sides" % mtu, ["nc", "pashlib"], 1, 131072, mib * MIB, sides, w2)
subprocess.check_call(["ip", "link", "set", "lo", "mtu", "65536"])
case("portable, single", ["nc", "pashlib-portable"], 1, 131072, mib * MIB, single, "CPU 0.65, GiB/s 1.4")
case("portable, sides", ["nc", "pashlib-portable"], 1, 131072, mib * MIB, sides, "CPU 0.65, GiB/s 1.4")

def latency(pause):                                     # a byte through one stream, back through another; all on one CPU
    def once(kind):
        port[0] += 2
        a, b, c, d = map(fifo, "abcd")
        shutil.rmtree(tmp + "/rdv", ignore_errors=True)
        sh = lambda cmd: start("0", ["sh", "-c", cmd])
        if kind == "nc":
            ps = [sh("exec nc -l 127.0.0.1 %d 1<>%s" % (port[0] + i, f)) for i, f in ((0, b), (1, d))]
            while not listening(port[0]) or not listening(port[0] + 1): time.sleep(0.002)
            ps += [sh("exec nc -N 127.0.0.1 %d <%s" % (port[0] + i, f)) for i, f in ((0, a), (1, c))]
        else: ps = [start("0", [P, "send*k*1*2*" + a, "recv*l*1*2*" + d]), start("0", [P, "recv*k*2*1*" + b, "send*l*2*1*" + c])]
        ps.append(sh("exec cat %s >%s" % (b, c)))
        t = float(subprocess.check_output(pinned("0", [tmp + "/load", "ping", "300", str(pause), a, d])))
        for p in ps: p.wait()
        return t
    got = {k: [] for k in ("nc", "pashlib")}
    for r in range(rounds):
        for k in got: got[k].append(once(k))
    return median(got["nc"]), median(got["pashlib"])
def timed(argv, env=None, n=1):
    began = time.monotonic()
    for i in range(n): subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, check=True)
    return (time.monotonic() - began) * 1000 / n
def files(kind, src, sink):
    port[0] += 1
    if kind == "socat262144":
        r = start("0", ["sh", "-c", "exec socat -u -b 262144 TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr STDOUT >%s" % (port[0], sink)])
        while not listening(port[0]): time.sleep(0.002)
        argv = ["sh", "-c", "exec socat -u -b 262144 STDIN TCP:127.0.0.1:%d <%s" % (port[0], src)]
    else:
        shutil.rmtree(tmp + "/rdv", ignore_errors=True)
        r, argv = start("0", [P, "recv", "k", "2", "1", sink]), [P, "send", "k", "1", "2", src]
    began = time.monotonic()
    s = start("0", argv)
    for p in (s, r):
        if p.wait(): sys.exit("%s to %s failed" % (kind, sink))
    return time.monotonic() - began
if not only or "rest" in only:
    print("\nthe rest")
    for pause, want in (5000, "at most 1.5 of nc"), (0, "0.3 ms more than nc, each way"):
        nc, ours = latency(pause)
        print("  a byte there and back, %d us apart: nc %.0f us, pashlib %.0f us (wanted: %s)" % (pause, nc, ours, want))
    for name, size in ("src", mib * MIB // 2), ("one", 1):
        with open(tmp + "/" + name, "wb") as f: f.write(os.urandom(size))
    for sink in tmp + "/dst", "/dev/null":
        got = {k: [] for k in ("socat262144", "pashlib")}
        for r in range(rounds):                         # less what it takes for one byte
            for k in got: got[k].append(-files(k, tmp + "/one", sink) + files(k, tmp + "/src", sink))
        print("  a file to %s: socat %.3f s, pashlib %.3f s (wanted: no slower)" % (os.path.basename(sink), *map(median, got.values())))
    with open(tmp + "/src", "rb") as a, open(tmp + "/dst", "rb") as b: assert a.read() == b.read()
    for f in "src", "dst", "one": os.unlink(tmp + "/" + f)
    got = {k: [] for k in ("empty", "pashlib addr")}
    for r in range(rounds):
        got["empty"].append(timed([tmp + "/empty"], n=50))
        got["pashlib addr"].append(timed([P, "addr"], n=50))
    print("  start: an empty main %.2f ms, addr %.2f ms (wanted: at most 1.5 of it and 1 ms)" % tuple(median(v) for v in got.values()))
    pairs = []
    for r in range(20):
        shutil.rmtree(tmp + "/rdv", ignore_errors=True)
        began = time.monotonic()
        s = subprocess.Popen([P, "send", "k", "1", "2"], stdin=subprocess.PIPE)
        r = subprocess.Popen([P, "recv", "k", "2", "1"], stdout=subprocess.PIPE)
        s.communicate(b"x")
        assert r.communicate()[0] == b"x"
        pairs.append((time.monotonic() - began) * 1000)
    print("  a pair for one byte over dir: %.0f ms, %.0f at most (wanted: 60)" % (median(pairs), max(pairs)))
    if shutil.which("turnserver"):
        turn = subprocess.Popen("turnserver -n --stun-only --no-cli --no-tls --no-dtls -L 127.0.0.1 -p 3478 --no-stdout-log --log-file=/dev/null --pidfile".split()
            + [tmp + "/turn"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        env = dict(os.environ, PASH_NO_HOLEPUNCH="0", PASH_STUN_SERVER="127.0.0.1", PASH_PEER_TIMEOUT_MS="0", PASH_LOG="info")
        def discovery(n):                               # until the last stream has its address
            argv = [P] + ["recv*d%d*1*2*x" % i for i in range(n)]
            began, said = time.monotonic(), b""
            p = subprocess.Popen(argv, env=env, stderr=subprocess.PIPE)
            while b"rendezvous dir:" not in said:       # a look every 0.2 ms: a reader of each line would cost more than it measures
                time.sleep(0.0002)
                if select.select([p.stderr], [], [], 0)[0]: said += os.read(p.stderr.fileno(), 65536)
            took = time.monotonic() - began
            p.stderr.read(); p.wait()
            assert said.count(b"STUN discovery succeeded") == n
            return took * 1000
        for tries in range(50):
            if b"source=stun" in subprocess.run([P, "addr"], env=dict(env, PASH_STUN_TIMEOUT_MS="200"), capture_output=True).stdout: break
        one, many = [], []
        for r in range(3 * rounds): one.append(discovery(1)); many.append(discovery(64))
        print("  discovery with coturn: 1 stream %.2f ms, 64 streams %.2f ms (wanted: at most 3 of it)" % (median(one), median(many)))
        turn.kill(); turn.wait()
    def resident(size):                                 # KiB, the most of any process, at the end of SIZE bytes
        shutil.rmtree(tmp + "/rdv", ignore_errors=True)
        i, o = fifo("i"), fifo("o")
        ps = [subprocess.Popen([tmp + "/static", "recv*k*2*1*" + o]), subprocess.Popen([tmp + "/static", "send*k*1*2*" + i])]
        c = subprocess.Popen(["sh", "-c", "{ head -c %d; exec sleep 0.3; } <%s >/dev/null" % (size, o)])
        w = os.open(i, os.O_WRONLY)
        block = bytes(MIB)
        for n in range(size // MIB): os.write(w, block)
        most = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/status" % pid) as f: t = f.read()
                with open("/proc/%s/cmdline" % pid) as f: ours = f.read().startswith(tmp + "/static")
            except OSError: continue
            if ours: most = max(most, int(t.split("VmHWM:")[1].split()[0]))
        os.close(w); c.wait()
        for p in ps: p.wait()
        return most
    print("  memory of a process, static: %d KiB for 1 MiB, %d KiB for 1 GiB (wanted: 2048)" % (resident(MIB), resident(1024 * MIB)))
    took = [timed(["cc", "-O2", "-o", tmp + "/x", "pashlib.c"]) for r in range(3)]
    print("  cc -O2: %.2f s (wanted: 1.2); static, stripped: %d bytes (wanted: 150,000)" % (min(took) / 1000, os.path.getsize(tmp + "/static")))
END
    echo 'int main(void) { return 0; }' >"$tmp/empty.c"
    cc -O2 -o "$tmp/load" "$tmp/load.c" && cc -O2 -o "$tmp/empty" "$tmp/empty.c" && cc -O2 -o "$tmp/pashlib" pashlib.c &&
        cc -O2 -DPASHLIB_NO_SPLICE -o "$tmp/portable" pashlib.c && cp pashlib "$tmp/built" && make -s static && cp pashlib "$tmp/static" &&
        cp "$tmp/built" pashlib || return 1
    PASH_LOG=error python3 "$tmp/bench.py" "$tmp" "${BENCH_ROUNDS-7}" "${BENCH_MIB-512}" "$@"
}

make pashlib >/dev/null || exit 1
case ${1-} in
demo)
    demo
    exit
    ;;
bench)
    shift
    bench "$@"
    exit
    ;;
soak)
    SOAK_RUNS=${SOAK_RUNS-1000} SOAK_SECONDS=${SOAK_SECONDS-120}
    ;;
'')
    # beside the others, each in namespaces of its own
    for groups in 'sanitized portable' 'build unit faults audit valgrind machines soak'; do
        # shellcheck disable=SC2086 # words
        env -u PASHLIB_NS ./test.sh $groups >"$tmp/beside.${groups%% *}" 2>&1 &
        beside="${beside-} $!"
    done
    long_start
    nat_start
    fuzz_start
    set -- cli settings stun imds ports rendezvous dynamodb connect transfer readers processes nat long nat_long fuzz
    ;;
esac
for t in "$@"; do
    echo "# $t"
    "t_$t"
done
if [ -n "${beside-}" ]; then
    # shellcheck disable=SC2086 # words
    wait $beside
    for f in "$tmp"/beside.*; do
        grep -v -e '^ok' -e ' passed, ' "$f"
        counts=$(sed -n '$s/^\([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p' "$f")
        [ -n "$counts" ] || fail "the tests in $f come to their end"
        # shellcheck disable=SC2086 # words
        set -- ${counts:-0 0 0}
        passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
    done
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
