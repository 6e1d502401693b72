"""HTTP servers on all addresses: on ports 443 and 853 with TLS, on port 8000 without. The certificate is in cert.pem, the key in
key.pem. The answer to GET is the server name that the client has sent, for /large 8 MB of zeros; to POST it is the digest of what
the client has sent.
"""

import hashlib
import http.server
import socket
import ssl
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        name = getattr(self.connection, "name", None)
        self.answer(bytes(8_000_000) if self.path == "/large" else f"{name}\n".encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(hashlib.sha256(body).hexdigest().encode() + b"\n")

    def log_message(self, *_):
        pass

    def setup(self):
        # The handshake, on the thread of the connection.
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128

    def handle_error(self, *_):
        # Of clients that are refused, and go.
        pass


def keep_name(connection, name, _):
    connection.name = name


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
context.sni_callback = keep_name
for port in 443, 853, 8000:
    server = Server(("::", port), Handler)
    if port != 8000:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever).start()
