"""Connections whose beginning a filter has to hold until it knows the server name, to good.names.test: prints what became
of each.
"""

import hashlib
import socket
import ssl
import struct
import threading

NAME = "good.names.test"
BODY = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(BODY).hexdigest()
POST = f"POST / HTTP/1.0\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY


def connect(port, segment=None):
    connection = socket.socket()
    connection.settimeout(15)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if segment:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
    connection.connect((NAME, port))
    return connection


class Delivered(Exception):
    """The server has what was to be held."""


def wait_for_retransmission(connection):
    """Waits until the kernel repeats what the server has not acknowledged."""
    retransmissions = 0
    while retransmissions == 0:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        # `tcpi_unacked` and `tcpi_total_retrans` of `struct tcp_info`.
        (unacknowledged,), (retransmissions,) = (struct.unpack_from("=I", info, at) for at in (24, 100))
        if not unacknowledged:
            raise Delivered


def tls(connection, name, padding, send):
    """A TLS connection whose ClientHello `send` sends; returns the digest that the server has answered.
    Each of the `padding` protocols that it offers makes its ClientHello 250 bytes longer.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([f"{number:0249}" for number in range(padding)])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)

    def run(call, *arguments):
        while True:
            try:
                result = call(*arguments)
                connection.sendall(outgoing.read())
                return result
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                if not (data := connection.recv(1 << 16)):
                    raise ConnectionResetError from None
                incoming.write(data)

    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        send(outgoing.read())
    run(client.do_handshake)
    run(client.write, POST)
    answer = b""
    while not answer.endswith(b"\n") or b"\r\n\r\n" not in answer or answer.endswith(b"\r\n\r\n"):
        answer += run(client.read, 1 << 16)
    return answer.split(b"\r\n\r\n")[1].decode().strip()


def outcome(call):
    try:
        return "intact" if call() == DIGEST else "other bytes"
    except (TimeoutError, ConnectionError, ssl.SSLEOFError):
        return "refused"
    except Delivered:
        return "not held"


def pieces(connection, hello, between=lambda: None):
    """Sends it in four segments."""
    quarter = len(hello) // 4 + 1
    for start in range(0, len(hello), quarter):
        connection.sendall(hello[start : start + quarter])
        between()


def in_pieces():
    connection = connect(443)
    return tls(connection, NAME, 0, lambda hello: pieces(connection, hello))


def in_late_pieces():
    """Nothing acknowledges what is held, so after the first retransmission the kernel sends no more of it."""
    connection = connect(443)
    connection.settimeout(3)

    def send(hello):
        pieces(connection, hello, lambda: wait_for_retransmission(connection))

    return tls(connection, NAME, 0, send)


def segmented():
    """10 KB that the interface segments."""
    connection = connect(443, segment=1400)
    return tls(connection, NAME, 40, connection.sendall)


def too_long():
    connection = connect(443)
    connection.settimeout(3)
    return tls(connection, NAME, 80, connection.sendall)


def other_name():
    connection = connect(443)
    connection.settimeout(3)
    return tls(connection, "other.names.test", 0, connection.sendall)


def plain():
    """A first segment without TLS, as long as the interface takes, and more behind it."""
    connection = connect(8000)
    connection.sendall(POST)
    return connection.makefile().read().split("\n\n")[1].strip()


def at_once():
    """Many of them at the same time."""
    results = []

    def one():
        results.append(outcome(segmented))

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return DIGEST if results == ["intact"] * 16 else str(results)


for case in in_pieces, in_late_pieces, segmented, plain, at_once, too_long, other_name:
    print(case.__name__, outcome(case), flush=True)
