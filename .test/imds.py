"""A fake of the EC2 instance metadata service (IMDS), in many modes at once, most of which misbehave.

usage: imds.py LIST [PUBLIC_IP]

LIST       the file that names the services, one a line: MODE PORT. It is there once all of them listen.
           LIST.log gets a line for each request: MODE and the request, as a Python string.
PUBLIC_IP  where it is given there is one service only, in mode v2, at 169.254.169.254 port 80, and the instance
           has that public address. Without it, each mode has a port of its own at 127.0.0.1, and the public
           address is 198.51.100.9.

The modes are in the table MODES. To add one, add a line to it that says how it differs from a good service.
"""
import json
import os
import socket
import sys
import threading
import time

LIST = sys.argv[1]
ADDRESS = "198.51.100.9"
WHERE = ("127.0.0.1", 0)
if len(sys.argv) > 2:
    ADDRESS = sys.argv[2]
    WHERE = ("169.254.169.254", 80)
TOKEN = "TOKEN=="
ROLE = "my+role@x"


# ---- what may be sent on a connection: each of these functions makes a function that sends it ----


def answer(body, status="200 OK", length=None, headers=""):
    """An HTTP answer; length is what Content-Length says, if not the truth, or "none" for no such header."""
    if length is None:
        length = len(body)
    if length != "none":
        headers += "Content-Length: %d\r\n" % length
    return raw("HTTP/1.1 %s\r\nServer: fake\r\n%s\r\n%s" % (status, headers, body))


def raw(text):
    """The text as it is."""
    return lambda connection: connection.sendall(text.encode())


def byte_by_byte(text, pause):
    """The text, one byte at a time, with a pause in seconds after each."""
    def send(connection):
        for character in text:
            connection.sendall(character.encode())
            time.sleep(pause)
    return send


def nothing():
    """No answer for longer than anybody waits."""
    return lambda connection: time.sleep(30)


# ---- the credentials of the instance's role: each of these functions gets the number of the fetch, from 1 ----


def keys(fetch):
    """The JSON object with the keys of the role: OLD the first time, NEW from then on."""
    return {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": "OLD" if fetch == 1 else "NEW",
        "SecretAccessKey": "oldsecret" if fetch == 1 else "newsecret",
        "Token": "session+token/==",
        "Expiration": "2099-01-01T00:00:00Z",
    }


def good_keys(fetch):
    return answer(json.dumps(keys(fetch), indent=2))


def failed_keys(fetch):
    return answer(json.dumps(dict(keys(fetch), Code="Failed"), indent=2))


def stale_keys(fetch):
    return answer(json.dumps(dict(keys(fetch), Expiration="2000-01-01T00:00:00Z"), indent=2))


def keys_without_token(fetch):
    incomplete = keys(fetch)
    del incomplete["Token"]
    return answer(json.dumps(incomplete, indent=2))


def keys_once(fetch):
    if fetch > 1:
        return answer("", "500 No")
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 30))
    return answer(json.dumps(dict(keys(fetch), Expiration=soon), indent=2))


# ---- the modes ----


class Mode:
    """How a service behaves; what is not said is as it should be with IMDSv2."""

    def __init__(self, closes=False, token=answer(TOKEN), wants_token=True, address=answer(ADDRESS),
                 role=answer(ROLE), credentials=good_keys):
        self.closes = closes                # It closes each connection without a word.
        self.token = token                  # What PUT token gets.
        self.wants_token = wants_token      # True: a GET must come with the token. False: it must come without.
        self.address = address              # What GET public-ipv4 gets.
        self.role = role                    # What GET security-credentials/ gets.
        self.credentials = credentials      # What GET security-credentials/ROLE gets, a function of the fetch.
        self.fetches = 0                    # How often the credentials have been fetched.


MODES = {
    # Services that give the address.
    "v2": Mode(),                                                   # IMDSv2, with nothing wrong
    "v1": Mode(token=answer("", "403 No"), wants_token=False),      # IMDSv1 only, as it looks to a request for v2 ...
    "v1-404": Mode(token=answer("", "404 No"), wants_token=False),  # ... where the path is not known
    "v1-500": Mode(token=answer("", "503 No"), wants_token=False),  # ... where that is an error of the service
    "hang": Mode(token=nothing(), wants_token=False),               # ... where that is not answered
    "newline": Mode(address=answer(ADDRESS + " \r\n")),             # blanks and a line end behind the address
    "nolen": Mode(address=answer(ADDRESS, length="none")),          # no Content-Length: the end closes the body
    # An answer that comes slowly, but within the time.
    "slow": Mode(address=byte_by_byte("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n" + ADDRESS, 0.01)),

    # Services that cannot be used.
    "slower": Mode(address=byte_by_byte("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n" + ADDRESS, 0.2)),  # too slow
    "quiet": Mode(token=nothing(), wants_token=False, address=nothing()),   # It takes requests and never answers.
    "closed": Mode(closes=True),                                    # It closes each connection at once.
    "put400": Mode(token=answer("", "400 Bad Request")),            # The request for a token is called bad.
    "badtoken": Mode(token=answer("TOK\r\nX-Evil: 1")),             # The token would smuggle in a header.

    # Answers to GET public-ipv4 that are not an address.
    "nopub": Mode(address=answer("<html>", "404 Not Found")),       # The instance has no public address.
    "redirect": Mode(address=answer("", "302 Found", headers="Location: http://127.0.0.1:1/\r\n")),  # elsewhere
    "garbage": Mode(address=answer("hello")),                       # a word
    "ipv6": Mode(address=answer("2001:db8::9")),                    # an address of the wrong kind
    "unspec": Mode(address=answer("0.0.0.0")),                      # an address that nobody can have
    "nul": Mode(address=answer(ADDRESS + "\0")),                    # an address with a zero byte behind it
    "cut": Mode(address=answer(ADDRESS[:-1], length=len(ADDRESS))),  # The connection ends within the body ...
    "cuthead": Mode(address=raw("HTTP/1.1 200 OK\r\nContent-Le")),  # ... within the head.
    "badlen": Mode(address=answer(ADDRESS, headers="Content-Length: 1x\r\n")),  # Content-Length is no number.
    "toolong": Mode(address=answer("1" * 40000, length="none")),    # longer than any answer may be

    # Services that differ in the credentials of the instance's role, or in how they are come by.
    "role": Mode(),                                                 # nothing wrong: first OLD, then NEW
    "rolehang": Mode(token=nothing(), wants_token=False),           # The request for a token is not answered.
    "rolestale": Mode(credentials=stale_keys),                      # They have expired long ago.
    "roleonce": Mode(credentials=keys_once),                        # They last for 30 s, then there are no others.
    "norole": Mode(role=answer(ROLE, "404 No")),                    # The instance has no role.
    "rolefail": Mode(credentials=failed_keys),                      # Their Code is not Success.
    "rolemissing": Mode(credentials=keys_without_token),            # The session token is not there.
}
if len(sys.argv) > 2:
    MODES = {"v2": MODES["v2"]}


# ---- the service ----


def read_request(connection):
    """All of the request's head, or "" where the connection ends before."""
    request = b""
    while b"\r\n\r\n" not in request:
        more = connection.recv(4096)
        if not more:
            return ""
        request += more
    return request.decode()


def choose(mode, request):
    """The function that sends what this mode says to the request."""
    asks = request.split("\r\n")[0]
    has_token = "\r\nX-aws-ec2-metadata-token: " + TOKEN + "\r\n" in request
    if asks == "PUT /latest/api/token HTTP/1.0" and "\r\nX-aws-ec2-metadata-token-ttl-seconds: " in request:
        return mode.token
    if asks.startswith("GET /latest/meta-data/iam/security-credentials/ "):
        return mode.role
    if has_token != mode.wants_token:
        return answer("", "401 Unauthorized")
    if asks.startswith("GET /latest/meta-data/iam/security-credentials/" + ROLE + " "):
        with lock:
            mode.fetches += 1
            return mode.credentials(mode.fetches)
    if asks == "GET /latest/meta-data/public-ipv4 HTTP/1.0" and "\r\nHost: " in request:
        return mode.address
    return answer("", "401 Unauthorized")


def serve(connection, name):
    """One connection: one request and its answer."""
    try:
        request = read_request(connection)
        if request:
            log.write("%s %r\n" % (name, request))
            send = choose(MODES[name], request)
            send(connection)
    except OSError:
        pass                                # The client has gone away: it did not like the answer.
    finally:
        connection.close()


def listen(server, name):
    """All connections of one mode, each in a thread of its own."""
    while True:
        connection = server.accept()[0]
        if MODES[name].closes:
            connection.close()
        else:
            threading.Thread(target=serve, args=(connection, name), daemon=True).start()


log = open(LIST + ".log", "w", 1)
lock = threading.Lock()
with open(LIST + ".new", "w") as ports:
    for mode_name in MODES:
        listener = socket.socket()
        listener.bind(WHERE)
        listener.listen(50)
        ports.write("%s %d\n" % (mode_name, listener.getsockname()[1]))
        threading.Thread(target=listen, args=(listener, mode_name), daemon=True).start()
os.rename(LIST + ".new", LIST)
time.sleep(3600)                            # Whoever started it ends it long before.
