"""A server that gives all kinds of answers, and logs them."""

from __future__ import annotations

import socket
import struct
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        with open("/tmp/python.log", "a") as log:
            log.write(f"{self.command} {int(code)}\n")

    def answer(self, code: int, body: bytes | None = b"hello") -> None:
        self.send_response(code)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        kind, _, rest = self.path[1:].partition("/")
        if kind == "code":
            self.answer(int(rest), None if rest in ("204", "304") else b"hello")
        elif kind == "slow":
            time.sleep(int(rest) / 1000)
            self.answer(200)
        elif kind == "chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for size in (1, 5000, 70000):
                self.wfile.write(b"%x\r\n%b\r\n" % (size, b"HTTP/1.1 500 \r\n".ljust(size)[:size]))
            self.wfile.write(b"0\r\n\r\n")
        elif kind == "until-closed":
            self.close_connection = True
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"z" * 100000)
        elif kind == "silent":
            self.close_connection = True
        elif kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            raise ConnectionResetError
        else:
            self.answer(404)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(201)


if __name__ == "__main__":
    ThreadingHTTPServer(("", 8000), Handler).serve_forever()
