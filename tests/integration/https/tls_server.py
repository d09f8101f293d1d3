"""The server of all kinds of answers by TLS, and one on port 9000 that reads what it is sent, and knows nothing of TLS."""

from __future__ import annotations

import socketserver
import ssl
import threading
from http.server import ThreadingHTTPServer

from server import Handler


class Reader(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(1 << 16)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/certificate.pem", "/key.pem")
server = ThreadingHTTPServer(("", 8443), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=socketserver.ThreadingTCPServer(("", 9000), Reader).serve_forever).start()
server.serve_forever()
