"""The server of all kinds of answers, with TLS."""

from __future__ import annotations

import ssl
from http.server import ThreadingHTTPServer

from server import Handler  # type: ignore[import-not-found]  # a file of the image

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/certificate.pem", "/key.pem")
server = ThreadingHTTPServer(("", 8443), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
