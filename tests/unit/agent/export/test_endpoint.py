"""`/metrics` over HTTP."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from chaosorca.agent.export.endpoint import serve, timed
from chaosorca.agent.export.snapshot import Snapshot
from tests.support.exposition import full_snapshot


def test_a_snapshot_is_timed() -> None:
    taken = timed(lambda: Snapshot(seconds=-1.0))()
    assert 0 <= taken.seconds < 1


@contextmanager
def served(take: Any) -> Iterator[str]:
    server = serve(0, take)
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_only_metrics_are_served() -> None:
    with served(full_snapshot) as address:
        for expected in (0.0, 5.0):
            with urllib.request.urlopen(f"{address}/metrics", timeout=5) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=")
                lines = answer.read().decode().splitlines()
            assert f'chaosorca_syscalls_total{{container="web",error="",syscall="openat"}} {expected}' in lines
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/", timeout=5)


def test_scrapes_are_answered_in_the_order_of_their_snapshots() -> None:
    taking, newer_was_served = threading.Event(), threading.Event()
    snapshots = iter([Snapshot(), full_snapshot(), full_snapshot()])

    def take() -> Snapshot:
        snapshot = next(snapshots)
        if not taking.is_set():
            taking.set()
            newer_was_served.wait(0.5)  # times out, since the other scrape waits
        return snapshot

    def scrape() -> list[str]:
        with urllib.request.urlopen(f"{address}/metrics", timeout=5) as answer:
            return [line for line in answer.read().decode().splitlines() if line.startswith("chaosorca_http_unparsed_total")]

    with served(take) as address:
        first = threading.Thread(target=scrape)
        first.start()
        taking.wait(5)
        series = 'chaosorca_http_unparsed_total{container="web",reason="pipelined"}'
        assert scrape() == [f"{series} 0.0"]
        newer_was_served.set()
        first.join()
        assert scrape() == [f"{series} 3.0"]
