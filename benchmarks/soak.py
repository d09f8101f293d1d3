#!/usr/bin/env python3
"""Monitor containers under load for an hour, and check that nothing of the agent grows.

    .venv/bin/python benchmarks/soak.py [--minutes N] [--every SECONDS]

One container serves pages over connections that come and go, and short processes are executed in it all the time. Monitoring of
another container starts and stops again and again. The samples are the agent's anonymous memory, the entries of each of its kernel
maps, its drops, and the duration of a scrape. The first quarter of them is left out. Exit code 1: something grew or was dropped.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import itertools
import logging
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from logzero import logger

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that this file also runs as a script

from benchmarks.parts.machine import Wrong, execute
from benchmarks.parts.observed import Observed, anonymous_memory, scrape, total
from benchmarks.parts.pages import pages
from chaosorca.actions.monitoring import start_monitoring, stop_monitoring

MEBIBYTE = 2**20
MOST_GROWTH = {"anonymous memory": 4 * MEBIBYTE, "scrape": 0.05, "dropped": 0.0}
MOST_ENTRIES = 200
"""How much the straight line through the samples may rise from the first to the last sample; entries are those of one map."""
_WARM_UP = 0.25
_PRINTED_EVERY = 20
_FEWEST_REQUESTS = 100  # a second
_LOAD = """
while :; do
    wrk -t1 -c8 -d2s http://127.0.0.1:80/open.html
    wrk -t1 -c4 -d1s -H 'Connection: close' http://127.0.0.1:80/no
done >/dev/null
"""
_SHORT_PROCESSES = "while :; do /bin/true; cat /nothing/here 2>/dev/null; done"


class Soaked(Observed):
    """The engine, with only the images that are needed here: the tests build them on a bare machine."""

    images: ClassVar[Mapping[str, Path]] = {name: Observed.images[name] for name in ("nginx", "postgres", "client", "pages")}


def slope(at: list[float], values: list[float]) -> float:
    """Return the slope of the line through samples: the median of the slopes of all pairs, which ignores outliers."""
    pairs = itertools.combinations(zip(at, values, strict=True), 2)
    return statistics.median((later - earlier) / (after - before) for (before, earlier), (after, later) in pairs)


def growth(at: list[float], values: list[float]) -> float:
    """Return how much that line rises from the first to the last sample after the warm-up."""
    begin = int(len(at) * _WARM_UP)
    at, values = at[begin:], values[begin:]
    return slope(at, values) * (at[-1] - at[0])


def grown(at: list[float], samples: Mapping[str, list[float]]) -> list[str]:
    """Return a sentence for each figure that grows more than it may."""
    found = []
    for name, values in samples.items():
        rise = values[-1] - values[0] if name == "dropped" else growth(at, values)
        most = MOST_GROWTH.get(name, MOST_ENTRIES)
        if rise > most:
            found.append(f"{name} grows by {rise:,.3g} in {at[-1] - at[0]:,.0f} s, from {values[0]:,.3g} to {values[-1]:,.3g}")
    return found


def sample(machine: Observed) -> tuple[dict[str, float], float]:
    """Return the figures that must not grow, and the number of counted requests."""
    took, figures = scrape(machine)
    entries = {name: value for name, value in figures.items() if name.startswith("chaosorca_agent_map_entries")}
    dropped = total(figures, "chaosorca_agent_dropped_total")
    requests = total(figures, "chaosorca_http_requests_total")
    return {"anonymous memory": anonymous_memory(machine), "scrape": took, "dropped": dropped, **entries}, requests


@contextlib.contextmanager
def restarted_monitoring(machine: Observed) -> Iterator[concurrent.futures.Future[None]]:
    """Start and stop the monitoring of a container again and again; the future ends early if that fails."""
    over = threading.Event()

    def run(name: str) -> None:
        while not over.wait(1):
            start_monitoring(container=name)
            over.wait(1)
            stop_monitoring(container=name)

    with (
        machine.container("client", ["sh", "-c", _SHORT_PROCESSES]) as container,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        running = pool.submit(run, container.name)
        try:
            yield running
        finally:
            over.set()
        running.result()


def soak(machine: Observed, seconds: float, every: float) -> list[str]:
    """Monitor under load; return the sentences of `grown`."""
    at: list[float] = []
    requests: list[float] = []
    samples: dict[str, list[float]] = {}
    with (
        pages(machine) as (_, web),
        machine.monitored(web),
        machine.beside(web, ["sh", "-c", _LOAD]),
        restarted_monitoring(machine) as running,
    ):
        web.exec_run(["sh", "-c", _SHORT_PROCESSES], detach=True)
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds and not running.done():
            at.append(now)
            figures, counted = sample(machine)
            requests.append(counted)
            for name, value in figures.items():
                samples.setdefault(name, [0.0] * (len(at) - 1)).append(value)
            execute(web, "sh", "-c", ": > /var/log/nginx/access.log")  # it would become gigabytes
            if len(at) % _PRINTED_EVERY == 1:
                latest = {name: samples[name][-1] for name in MOST_GROWTH}
                latest["requests"] = counted
                print(f"{now:6,.0f} s: {', '.join(f'{name} {value:,.3f}' for name, value in latest.items())}", flush=True)
            time.sleep(every)
    samples = {name: values for name, values in samples.items() if len(values) == len(at)}
    if len(at) < 8:
        raise Wrong(f"{len(at)} samples are too few: give more --minutes")
    if requests[-1] - requests[0] < _FEWEST_REQUESTS * at[-1]:
        raise Wrong(f"only {requests[-1] - requests[0]:,.0f} requests were counted in {at[-1]:,.0f} s")
    for name, values in samples.items():
        print(f"{name:<60}{values[0]:>14,.3f} ..{values[-1]:>14,.3f}   rises by {growth(at, values):,.3f}")
    return grown(at, samples)


def main() -> int:
    parser = argparse.ArgumentParser(description="Check that nothing of monitoring grows under load.")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument(
        "--every", type=float, help="seconds between samples (default: for 200 samples in all, at least half a second)"
    )
    arguments = parser.parse_args()
    for how in (signal.SIGINT, signal.SIGTERM):
        signal.signal(how, signal.default_int_handler)
    logger.setLevel(logging.ERROR)
    seconds = arguments.minutes * 60
    with Soaked([], 1, 1.0) as machine:
        found = soak(machine, seconds, arguments.every or max(0.5, seconds / 200))
    for sentence in found:
        print(f"WRONG  {sentence}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
