"""Hold a port, and never answer.

usage: holdport.py udp|tcp IP PORT

It prints "up" once it has the port. What arrives there is not read; over TCP, connections come up.
"""
import socket
import sys
import time

protocol, ip, port = sys.argv[1:]
holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM)
holder.bind((ip, int(port)))
if protocol == "tcp":
    holder.listen()
print("up", flush=True)
time.sleep(3600)                            # Whoever started it ends it long before.
