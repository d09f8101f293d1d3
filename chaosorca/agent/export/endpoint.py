"""Serves `/metrics` in Prometheus's text format."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import exposition

from chaosorca.agent.export.families import families
from chaosorca.agent.export.first_seen import FirstSeenAsZero
from chaosorca.agent.export.histogram_text import Histograms
from chaosorca.agent.export.snapshot import Snapshot


def serve(port: int, take_snapshot: Callable[[], Snapshot]) -> http.server.ThreadingHTTPServer:
    """Serve `/metrics` on all addresses of the agent's container. The server runs in separate threads.

    Arguments:
        port: the TCP port; 0 for any free port.
        take_snapshot: returns the current figures.

    Returns:
        the server. Its method `shutdown` stops it.
    """
    first_seen = FirstSeenAsZero()
    # Guards `first_seen`, and keeps the snapshots in order: an older snapshot would hide the newest series again.
    scraping = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.split("?")[0] != "/metrics":
                self.send_error(404)
                return
            with scraping:
                snapshot = take_snapshot()
                collected = first_seen.apply(self.client_address[0], families(snapshot), snapshot.not_running)
            body = in_text(collected)
            self.send_response(200)
            self.send_header("Content-Type", exposition.CONTENT_TYPE_LATEST)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Log nothing, since every scrape would add a line."""

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128  # with the default of 5, some connections wait for seconds if many arrive at once

    server = Server(("", port), Handler)
    threading.Thread(target=server.serve_forever, name="exporter", daemon=True).start()
    return server


def timed(take: Callable[[], Snapshot]) -> Callable[[], Snapshot]:
    """Return a function that takes a snapshot and measures how long this takes."""

    def take_and_time() -> Snapshot:
        began = time.perf_counter()
        snapshot = take()
        snapshot.seconds = time.perf_counter() - began
        return snapshot

    return take_and_time


def in_text(collected: list[Any]) -> bytes:
    """Return families in Prometheus's text format."""
    others = [family for family in collected if not isinstance(family, Histograms)]
    texts = [family.text() for family in collected if isinstance(family, Histograms)]
    return exposition.generate_latest(_Families(others)) + "".join(texts).encode()


class _Families:
    """The part of a registry that `generate_latest` uses."""

    def __init__(self, collected: list[Any]) -> None:
        self._collected = collected

    def collect(self) -> list[Any]:
        return self._collected
