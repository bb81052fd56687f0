"""Exit 0 if the service on port argv[1] of this container answers /readyz with 200.

A bare socket and `python -IS` keep the check at a few milliseconds; it runs in every container every few seconds.
"""

import socket
import sys

with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=4) as connection:
    connection.sendall(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
    answer = b""
    while block := connection.recv(4096):
        answer += block
head, _, body = answer.partition(b"\r\n\r\n")
print(body.decode(errors="replace")[:1000])
sys.exit(0 if head.split(b" ", 2)[1:2] == [b"200"] else 1)
