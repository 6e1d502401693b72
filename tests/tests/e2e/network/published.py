"""Servers on the loopback of the guest `published`, and their clients on the host, which connect to them through published
ports. Each direction of a connection must end by itself, and a connection that nobody reads must hold up its sender and no other
connection.

    published.py serve      the servers, until they are killed
    published.py            the clients: prints what they see
"""

import hashlib
import os
import random
import select
import socket
import subprocess
import sys
import threading

# The client ends first, the server ends first, the client reads late, the server reads late.
CLIENT_ENDS, SERVER_ENDS, CLIENT_WAITS, SERVER_WAITS = range(9001, 9005)
DATA = random.Random(9001).randbytes(1_000_000) * 24
# A sender that got rid of nothing for this long, in seconds, waits for its reader: the buffers of
# sockets, vsock and relays are full.
BLOCKED = 2


def digest(data):
    return hashlib.sha256(data).hexdigest().encode()


def read(connection):
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def put(path, data):
    """Writes a file that is complete when it exists."""
    with open(path + ".new", "wb") as file:
        file.write(data)
    os.rename(path + ".new", path)


def send_until_blocked(connection):
    """Sends DATA until the reader is waited for; returns how much was sent."""
    connection.setblocking(False)
    sent = 0
    while sent < len(DATA) and select.select([], [connection], [], BLOCKED)[1]:
        sent += connection.send(memoryview(DATA)[sent : sent + (1 << 20)])
    connection.setblocking(True)
    return sent


def client_ends(connection):
    connection.sendall(digest(read(connection)))


def server_ends(connection):
    connection.sendall(b"begin")
    connection.shutdown(socket.SHUT_WR)
    put("/received", digest(read(connection)))


def client_waits(connection):
    sent = send_until_blocked(connection)
    put("/blocked", b"%d" % sent)
    connection.sendall(memoryview(DATA)[sent:])


def server_waits(connection):
    # Until the client has written to it.
    with open("/go", "rb") as go:
        go.read()
    connection.sendall(digest(read(connection)))


def serve():
    def accept(port, server):
        listener = socket.create_server(("127.0.0.1", port))
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=run, args=[server, connection]).start()

    def run(server, connection):
        with connection:
            server(connection)

    os.mkfifo("/go")
    servers = {
        CLIENT_ENDS: client_ends,
        SERVER_ENDS: server_ends,
        CLIENT_WAITS: client_waits,
        SERVER_WAITS: server_waits,
    }
    for port, server in servers.items():
        threading.Thread(target=accept, args=[port, server]).start()


def guest(script):
    """Runs a shell script in the guest."""
    command = ["microagent", "exec", "published", "sh", "-c", script]
    return subprocess.run(command, check=True, capture_output=True).stdout


def connect(port):
    return socket.create_connection(("127.0.0.1", port))


def ask(data):
    """A connection whose client ends first; whether the answer is right."""
    with connect(CLIENT_ENDS) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return read(connection) == digest(data)


def clients():
    print("client ends first:", ask(DATA[:5_000_000]))

    with connect(SERVER_ENDS) as connection:
        begin = read(connection)
        connection.sendall(DATA[:5_000_000])
    received = guest("until [ -e /received ]; do :; done; cat /received")
    print("server ends first:", begin == b"begin" and received == digest(DATA[:5_000_000]))

    with connect(CLIENT_WAITS) as connection:
        sent = int(guest("until [ -e /blocked ]; do :; done; cat /blocked"))
        print("the server is held up:", 0 < sent < len(DATA))
        print("others are not:", ask(b"short"))
        print("client reads late:", read(connection) == DATA)

    with connect(SERVER_WAITS) as connection:
        sent = send_until_blocked(connection)
        print("the client is held up:", 0 < sent < len(DATA))
        print("others are not:", ask(b"short"))
        guest("echo >/go")
        connection.sendall(memoryview(DATA)[sent:])
        connection.shutdown(socket.SHUT_WR)
        print("server reads late:", read(connection) == digest(DATA))


serve() if sys.argv[1:] == ["serve"] else clients()
