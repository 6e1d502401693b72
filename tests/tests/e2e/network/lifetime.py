"""A connection that outlives the answer whose address it uses: goes on, while no new one begins until the name was resolved again."""

import socket

NAME = "short.names.test"


def resolve():
    return socket.getaddrinfo(NAME, 8000, socket.AF_INET, socket.SOCK_STREAM)[0][4]


def connects(address):
    try:
        with socket.create_connection(address, timeout=2) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return connection.makefile().read().endswith("None\n")
    except OSError:
        return False


address = resolve()
download = socket.create_connection(address)
download.sendall(b"GET /large HTTP/1.0\r\n\r\n")
stream = download.makefile("rb", buffering=0)
got = stream.read(1)
while connects(address):
    # One byte at a time, so that the server waits.
    got += stream.read(1)
print("no new connection")
while data := stream.read(1 << 20):
    got += data
print("the download:", len(got.split(b"\r\n\r\n")[1]))
print("another answer:", connects(resolve()))
