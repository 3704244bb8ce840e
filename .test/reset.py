"""A receiver whose standard output is a TCP connection, and whose reader closes it with unread data: a reset.

Arguments: the program and its words. Exits with the program's status.
"""
import socket
import subprocess
import sys

with socket.create_server(("127.0.0.1", 0)) as listener:
    output = socket.create_connection(listener.getsockname())
    reader, _ = listener.accept()
process = subprocess.Popen(sys.argv[1:], stdout=output)
output.close()
reader.recv(1)
reader.close()
sys.exit(process.wait())
