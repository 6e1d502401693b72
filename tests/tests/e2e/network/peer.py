"""The end of a connection whose other end is in a guest, and the end in the guest: the same program.

    peer.py serve                       TCP port 9000 and UDP port 9007, IPv4 and IPv6, until it is killed
    peer.py up ADDRESS SECONDS          sends to the TCP server for that long
    peer.py down ADDRESS SECONDS        receives from it
    peer.py echo ADDRESS LENGTH...      exchanges a datagram of each length
    peer.py connect ADDRESS COUNT       that many connections, one after the other, with an answer each

A transfer ends with its length, and not by closing one direction: what a guest receives after it has
closed its own, older versions of passt repeat without end. The server speaks first, because they reset
a connection on which it is silent for 24 seconds (docs/network.md, "Mode user").

It prints "intact" if the receiver got what the sender sent, all of it, and the longest time in which it
received nothing was below STALL seconds; else what happened.
"""

import random
import socket
import sys
import threading
import time

TCP, UDP = 9000, 9007
BLOCK = 1 << 20
# Twice the block, so that what was received can be compared with a part of it, wherever it begins.
PATTERN = random.Random(9000).randbytes(BLOCK) * 2
# passt and a window that is never opened again would be silent for good; a busy machine is not.
STALL = 2.0


def send(connection, seconds):
    """Sends the pattern, then how long it was."""
    end = time.monotonic() + seconds
    total = 0
    while time.monotonic() < end:
        connection.sendall(memoryview(PATTERN)[:BLOCK])
        total += BLOCK
    connection.sendall(b"%020d" % total)


def receive(connection):
    """Receives what `send` sends; returns the verdict."""
    total, longest, last, tail = 0, 0.0, time.monotonic(), b""
    buffer = memoryview(bytearray(BLOCK))
    while count := connection.recv_into(buffer):
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        # The last 20 bytes may be the length.
        data = tail + bytes(buffer[:count])
        body, tail = data[:-20], data[-20:]
        at = total % BLOCK
        if body != PATTERN[at : at + len(body)]:
            return f"other bytes after {total}"
        total += len(body)
        if tail == b"%020d" % total:
            break
    if tail != b"%020d" % total:
        return f"ended after {total} with {tail}"
    if longest >= STALL:
        return f"nothing for {longest:.1f} s, {total} bytes"
    print(f"{total >> 20} MiB, nothing for {longest:.2f} s at most", file=sys.stderr)
    return "intact" if total else "nothing"


def serve(connection):
    """One connection: its first line is what the client does."""
    word, seconds = connection.makefile("rb", buffering=0).readline().split()
    if word == b"down":
        send(connection, float(seconds))
    elif word == b"up":
        connection.sendall(b"ready\n")
        connection.sendall(receive(connection).encode())
    else:
        connection.sendall(b"answer")
    connection.close()


def serve_all():
    def accept(listener):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=[connection]).start()

    def echo(udp):
        while True:
            data, client = udp.recvfrom(1 << 16)
            udp.sendto(data[::-1], client)

    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.bind(("::", UDP))
    threading.Thread(target=echo, args=[udp]).start()
    accept(socket.create_server(("::", TCP), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128))


def ask(address, word, seconds):
    connection = socket.create_connection((address, TCP))
    connection.sendall(f"{word} {seconds}\n".encode())
    return connection


def main(word, address=None, *rest):
    if word == "serve":
        serve_all()
    elif word == "up":
        connection = ask(address, word, rest[0])
        answers = connection.makefile()
        answers.readline()
        send(connection, float(rest[0]))
        print(answers.read())
    elif word == "down":
        print(receive(ask(address, word, rest[0])))
    elif word == "echo":
        udp = socket.socket(socket.getaddrinfo(address, UDP)[0][0], socket.SOCK_DGRAM)
        udp.settimeout(10)
        udp.connect((address, UDP))
        for length in map(int, rest):
            data = random.randbytes(length)
            udp.send(data)
            print("echo" if udp.recv(1 << 16) == data[::-1] else "other", length)
    elif word == "connect":
        answers = [ask(address, word, 0).makefile().read() for _ in range(int(rest[0]))]
        print(answers.count("answer"))


main(*sys.argv[1:])
