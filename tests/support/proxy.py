"""A connection to the engine that a test controls."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path


class Proxy:
    """The engine's socket at another path. A test can make the proxy hang up or refuse connections."""

    def __init__(self, path: Path, engine: str) -> None:
        self.configuration = {"chaosorca_docker_host": f"unix://{path}"}
        self._engine = engine
        self._open: list[socket.socket] = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        path.chmod(0o666)
        self._listening.listen()
        self.refuses = False
        self.gathers = False
        """Whether the headers of an upgraded connection arrive together with the data after them, as they do for a slow client."""
        threading.Thread(target=self._accept, daemon=True).start()

    def hang_up(self) -> None:
        """End all connections. While `refuses` is set, new connections end at once."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        """End all connections, and accept no new ones."""
        self._listening.close()
        self.hang_up()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listening.accept()
                if self.refuses:
                    here.close()
                    continue
                there = socket.socket(socket.AF_UNIX)
                there.connect(self._engine)
                self._open += [here, there]
                for source, sink in ((here, there), (there, here)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.gathers and data.startswith(b"HTTP/1.1 101 "):
                    data += source.recv(65536)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
