"""Asks a DNS server, as a program without a resolver would:

    dns.py SERVER udp|tcp NAME TYPE     prints the response code, "truncated" if it is, the number of records
"""

import random
import socket
import struct
import sys

TYPES = {"A": 1, "TXT": 16, "AAAA": 28}


def main(server, transport, name, kind):
    number = random.getrandbits(16)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack(">6H", number, 0x100, 1, 0, 0, 0) + labels + struct.pack(">x2H", TYPES[kind], 1)
    if transport == "udp":
        connection = socket.socket(socket.getaddrinfo(server, 53)[0][0], socket.SOCK_DGRAM)
        connection.settimeout(20)
        connection.connect((server, 53))
        connection.send(query)
        answer = connection.recv(1 << 16)
    else:
        connection = socket.create_connection((server, 53), timeout=20)
        connection.sendall(struct.pack(">H", len(query)) + query)
        stream = connection.makefile("rb")
        answer = stream.read(*struct.unpack(">H", stream.read(2)))
    got, flags, _, records = struct.unpack(">4H", answer[:8])
    assert got == number and flags & 0x8000
    print(flags & 0xF, *["truncated"] * bool(flags & 0x200), records)


main(*sys.argv[1:])
