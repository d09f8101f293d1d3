"""Send a request to a local port with BoringSSL, and read until the page ends; repeat that on one connection."""

from __future__ import annotations

import ctypes
import socket
import sys

port, request, times = int(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
library = ctypes.CDLL("/opt/boringssl/lib/libssl.so.0")
for name in ("TLS_method", "SSL_CTX_new", "SSL_new"):
    getattr(library, name).restype = ctypes.c_void_p
connection = socket.create_connection(("127.0.0.1", port))
ssl = ctypes.c_void_p(library.SSL_new(ctypes.c_void_p(library.SSL_CTX_new(ctypes.c_void_p(library.TLS_method())))))
assert library.SSL_set_fd(ssl, connection.fileno()) == library.SSL_connect(ssl) == 1
buffer = ctypes.create_string_buffer(1 << 16)
for _ in range(times):
    assert library.SSL_write(ssl, request, len(request)) == len(request)
    received = b""
    while b"</html>" not in received:
        length = library.SSL_read(ssl, buffer, len(buffer))
        assert length > 0, received[-200:]
        received += buffer.raw[:length]
library.SSL_free(ssl)
