"""Accept connections and read from them, without TLS."""

from __future__ import annotations

import socketserver


class Reader(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(1 << 16)


socketserver.ThreadingTCPServer(("", 9000), Reader).serve_forever()
