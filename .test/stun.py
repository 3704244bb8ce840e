"""Fake STUN servers (RFC 8489), one for each of many modes, most of which misbehave.

usage: stun.py LIST

LIST      the file that names the servers, one a line: MODE PORT. It is there once all of them listen. Each server
          listens at 127.0.0.1, at one port number for both UDP and TCP.
LIST.log  what they see, one a line, with the time in seconds and the client's port:
              udp MODE TIME PORT asked REQUEST      a datagram, in hexadecimal
              tcp MODE TIME PORT asked REQUEST      the first 20 bytes of a connection, in hexadecimal
              tcp MODE TIME PORT gone NUMBER        the client has closed, after NUMBER bytes more

The modes are in the table MODES. To add one, add a line to it, and the function that makes its messages.
"""
import os
import socket
import struct
import sys
import threading
import time

LIST = sys.argv[1]

COOKIE = b"\x21\x12\xa4\x42"
ANSWER = 0x0101
ERROR_ANSWER = 0x0111
MAPPED_ADDRESS = 0x0001
ERROR_CODE = 0x0009
XOR_MAPPED_ADDRESS = 0x0020
SOFTWARE = 0x8022

SO_TIMESTAMPNS = 35                         # of Linux; Python has no name for it
NO_ID = bytes(12)                           # the transaction id of nobody's request
WRONG = "198.51.100.66"                     # an address that no client may believe


# ---- messages ----


def attribute(kind, value):
    padding = bytes(-len(value) % 4)
    return struct.pack("!HH", kind, len(value)) + value + padding


def plain_address(ip, port):
    """The attribute MAPPED-ADDRESS."""
    family = 2 if ":" in ip else 1
    number = socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)
    return attribute(MAPPED_ADDRESS, struct.pack("!BBH", 0, family, port) + number)


def xor_address(ip, port, tid):
    """The attribute XOR-MAPPED-ADDRESS, in an answer with the transaction id tid."""
    family = 2 if ":" in ip else 1
    number = socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)
    hidden = bytes(a ^ b for a, b in zip(number, COOKIE + tid))
    return attribute(XOR_MAPPED_ADDRESS, struct.pack("!BBH", 0, family, port ^ 0x2112) + hidden)


def message(body, tid, kind=ANSWER, cookie=COOKIE, add=0):
    """A whole message; add is what its length is wrong by."""
    return struct.pack("!HH", kind, len(body) + add) + cookie + tid + body


# ---- what the modes say: each of these functions makes the messages that answer the request with the id tid ----


def silence(tid):
    return []


def good(tid):
    return [message(attribute(SOFTWARE, b"fake") + xor_address("198.51.100.7", 4242, tid), tid)]


def good_twice(tid):
    return good(tid) + good(tid)


def other_port(tid):
    return [message(xor_address("198.51.100.7", 4343, tid), tid)]


def mapped_address(tid):
    return [message(plain_address("198.51.100.7", 4242), tid)]


def ipv6_address(tid):
    return [message(xor_address("2001:db8::9", 4242, tid), tid)]


def wrong_id(tid):
    return [message(xor_address(WRONG, 1, tid), NO_ID)]


def wrong_cookie(tid):
    return [message(xor_address(WRONG, 1, tid), tid, cookie=b"\x21\x12\xa4\x43")]


def wrong_length(tid):
    body = xor_address(WRONG, 1, tid)
    return [message(body, tid, add=4), message(body, tid, add=-4)]


def cut_attribute(tid):
    says_8_has_2 = struct.pack("!HH", XOR_MAPPED_ADDRESS, 8) + b"\0\1"
    return [message(says_8_has_2, tid)]


def unspecified_address(tid):
    return [message(xor_address("0.0.0.0", 5, tid), tid)]


def port_0(tid):
    return [message(xor_address(WRONG, 0, tid), tid)]


def multicast_address(tid):
    return [message(xor_address("224.0.0.1", 5, tid), tid)]


def no_address(tid):
    return [message(attribute(SOFTWARE, b"nothing"), tid)]


def error(tid):
    return [message(attribute(ERROR_CODE, b"\0\0\4\x14Un\x1b[31mknown"), tid, ERROR_ANSWER)]


def error_with_wrong_id(tid):
    return [message(attribute(ERROR_CODE, b"\0\0\4\x14No"), NO_ID, ERROR_ANSWER)]


def forgeries_first(tid):
    return [b"", b"x" * 1500] + wrong_id(tid) + good(tid)


def forgery_first(tid):
    return wrong_id(tid) + good_twice(tid)


def too_long(tid):
    return [message(attribute(SOFTWARE, bytes(2040)) + xor_address(WRONG, 1, tid), tid)]


def cut(tid):
    return [good(tid)[0][:-4]]


# ---- the modes ----


class Mode:
    """What a server answers, and how."""

    def __init__(self, messages, tcp_messages=None, lose=0, udp_delay=0, tcp_delay=0, elsewhere=False, pieces=False,
                 tcp_open=None):
        self.messages = messages
        self.tcp_messages = tcp_messages or messages    # over TCP, where they are others
        self.lose = lose                    # It answers by UDP only once it has got the request more often than that.
        self.udp_delay = udp_delay          # It answers by UDP after so many seconds ...
        self.tcp_delay = tcp_delay          # ... and by TCP.
        self.elsewhere = elsewhere          # It answers from another UDP port; over TCP not at all.
        self.pieces = pieces                # It answers by TCP one byte at a time.
        self.tcp_open = tcp_open            # It closes a TCP connection so many seconds after its answer;
                                            # None: it waits until the client does.


MODES = {
    # Servers that give an address that is to be taken.
    "good": Mode(good_twice),                           # nothing wrong; the answer comes twice, as UDP may have it
    "other": Mode(other_port),                          # another port than good gives
    "mapped": Mode(mapped_address),                     # an old server: MAPPED-ADDRESS alone
    "ipv6": Mode(ipv6_address),                         # an IPv6 address
    "forged": Mode(forgeries_first, forgery_first),     # rubbish and a forged answer before the good one
    "late": Mode(good, udp_delay=1.2, tcp_delay=0.3),   # by UDP, the client asks again before the answer is there
    "lose1": Mode(good, lose=1),                        # the first datagram is lost
    "far": Mode(good, lose=1),                          # so it is here, where the server is 127.0.0.2
    "lose2": Mode(good, lose=2),                        # the first two datagrams are lost
    "pieces": Mode(good, pieces=True),                  # the answer comes one byte at a time
    "brief": Mode(good, tcp_open=0.5),                  # the TCP connection is closed soon after the answer

    # Servers whose answers are not to be believed: the client waits for a better one.
    "wrongid": Mode(wrong_id),                          # the transaction id is another
    "wrongcookie": Mode(wrong_cookie),                  # the magic cookie is another
    "badlen": Mode(wrong_length),                       # the length is too large, then too small
    "cutattr": Mode(cut_attribute),                     # the message ends within its attribute
    "unspec": Mode(unspecified_address),                # 0.0.0.0
    "port0": Mode(port_0),                              # port 0
    "multicast": Mode(multicast_address),               # an address that nobody can have
    "noaddr": Mode(no_address),                         # no address in it
    "errid": Mode(error_with_wrong_id),                 # an error, with another transaction id
    "othersock": Mode(good, elsewhere=True),            # the answer comes from a port that was not asked
    "silent": Mode(silence),                            # no answer

    # Servers that cannot be used.
    "error": Mode(error),                               # error 420; its reason holds an escape sequence
    "huge": Mode(too_long),                             # the answer is longer than 2,048 bytes
    "half": Mode(cut, tcp_open=0),                      # the TCP connection is closed within the answer
}


# ---- the servers ----


def note(protocol, name, when, port, what):
    log.write("%s %s %.3f %d %s\n" % (protocol, name, when, port, what))


def receive(server):
    """A datagram, the client's address, and when the kernel got it: we may be slow to fetch it."""
    datagram, extras, _, client = server.recvmsg(2000, 64)
    when = time.time()
    for _, kind, value in extras:
        if kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("@ll", value)
            when = seconds + nanoseconds / 1e9
    return datagram, client, when


def serve_udp(server, name):
    mode = MODES[name]
    server.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    times_asked = {}                        # of each transaction id
    source = server
    if mode.elsewhere:
        source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        source.bind(("127.0.0.1", 0))
    while True:
        request, client, when = receive(server)
        note("udp", name, when, client[1], "asked " + request.hex())
        tid = request[8:20]
        times_asked[tid] = times_asked.get(tid, 0) + 1
        if times_asked[tid] > mode.lose:
            timer = threading.Timer(mode.udp_delay, send_udp, (source, mode.messages(tid), client))
            timer.daemon = True
            timer.start()


def send_udp(source, messages, client):
    for datagram in messages:
        source.sendto(datagram, client)


def serve_tcp(server, name):
    while True:
        connection, client = server.accept()
        threading.Thread(target=talk_tcp, args=(connection, client[1], name), daemon=True).start()


def talk_tcp(connection, port, name):
    mode = MODES[name]
    more = 0
    try:
        request = b""
        while len(request) < 20:
            piece = connection.recv(20 - len(request))
            if not piece:
                raise EOFError
            request += piece
        note("tcp", name, time.time(), port, "asked " + request.hex())
        time.sleep(mode.tcp_delay)
        messages = [] if mode.elsewhere else mode.tcp_messages(request[8:20])
        send_tcp(connection, b"".join(messages), mode.pieces)
        if mode.tcp_open is not None:
            time.sleep(mode.tcp_open)
            return
        while True:
            piece = connection.recv(100)
            if not piece:
                raise EOFError
            more += len(piece)
    except (OSError, EOFError):
        note("tcp", name, time.time(), port, "gone %d" % more)
    finally:
        connection.close()


def send_tcp(connection, data, pieces):
    if not pieces:
        connection.sendall(data)
        return
    for byte in data:
        connection.sendall(bytes([byte]))
        time.sleep(0.005)


def listen_udp_and_tcp(address):
    """Two sockets with the same port number, which is free for both."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((address, 0))
        tcp = socket.socket()
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind(udp.getsockname())
            tcp.listen(16)
            return udp, tcp
        except OSError:
            udp.close()
            tcp.close()


log = open(LIST + ".log", "w", 1)
with open(LIST + ".new", "w") as ports:
    for mode_name in MODES:
        udp_server, tcp_server = listen_udp_and_tcp("127.0.0.2" if mode_name == "far" else "127.0.0.1")
        ports.write("%s %d\n" % (mode_name, udp_server.getsockname()[1]))
        threading.Thread(target=serve_udp, args=(udp_server, mode_name), daemon=True).start()
        threading.Thread(target=serve_tcp, args=(tcp_server, mode_name), daemon=True).start()
os.rename(LIST + ".new", LIST)
time.sleep(3600)                            # Whoever started it ends it long before.
