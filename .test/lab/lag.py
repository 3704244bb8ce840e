"""A link between two network namespaces, on which every packet takes its time.

usage: lag.py NAMESPACE DEVICE NAMESPACE DEVICE MS

It makes a TUN device of that name in each of the two namespaces. What is sent into one comes out of the other after
MS milliseconds. The namespaces are named as ip netns names them.
"""
import ctypes
import fcntl
import os
import select
import struct
import sys
import time

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000


def tun(namespace, name):
    """A descriptor of a new TUN device of that name there."""
    with open("/run/netns/" + namespace) as file:
        if ctypes.CDLL(None).setns(file.fileno(), CLONE_NEWNET) != 0:
            sys.exit("setns to %s failed" % namespace)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return device


def receive(source, target):
    """Queue a packet that has come from one device for the other one."""
    try:
        packet = os.read(source, 65536)
    except OSError:
        return                              # The device is not up yet.
    queue.append((time.monotonic() + lag, target, packet))


def send(target, packet):
    try:
        os.write(target, packet)
    except OSError:
        pass                                # The device is not up yet: the packet is lost.


one = tun(sys.argv[1], sys.argv[2])
other = tun(sys.argv[3], sys.argv[4])
lag = float(sys.argv[5]) / 1000
queue = []                                  # what is on its way: (when it arrives, where, packet), in this order
while True:
    wait = None
    if queue:
        wait = max(0, queue[0][0] - time.monotonic())
    ready = select.select([one, other], [], [], wait)[0]
    if one in ready:
        receive(one, other)
    if other in ready:
        receive(other, one)
    while queue and queue[0][0] <= time.monotonic():
        due, target, packet = queue.pop(0)
        send(target, packet)
