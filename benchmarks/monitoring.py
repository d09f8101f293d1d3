#!/usr/bin/env python3
"""Measure what monitoring costs monitored and other programs, how soon it begins, and how it scales to 20 containers.

    .venv/bin/python benchmarks/monitoring.py [--pairs N] [--only NAME ...] [--seconds S] [--ways NAMES] [--short]

The parts (`--only`) are:

- calls: one getppid of a busy program, monitored and not, with 1 and 20 targets, next to a pair of empty programs and bpftrace;
- nginx: its throughput under wrk with all monitors and with each, next to the empty pair, bpftrace and tshark;
- start: the time from start_monitoring to Prometheus's first sample;
- scale: 20 containers under load: scrapes, memory, drops;
- exact: a million calls of eight threads, next to what bpftrace counts.

Runs without and with monitoring are interleaved, and only runs of the same round are compared. The tables show medians, quartiles
and extremes. "Without" means that there is no agent at all. The benchmark needs what `scripts/setup` installs; requests go between
its own containers. It removes everything that it makes, except images. Exit code 1: a count was wrong, or a figure is over its
limit; lines with WRONG name it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import logging
import math
import os
import re
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from docker.models.containers import Container
from logzero import logger

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that this file also runs as a script

from benchmarks.parts.calls import Calls, calls_program
from benchmarks.parts.machine import Wrong, execute
from benchmarks.parts.observed import Observed, anonymous_memory, end_bpftrace, scrape, total
from benchmarks.parts.pages import pages
from benchmarks.parts.pairs import pairs_of, print_kept, quartiles
from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.actions.prometheus import start_prometheus, stop_prometheus
from chaosorca.engine.containers import find_container
from chaosorca.metrics.measure import wait_for_scrapes
from chaosorca.model.contract import AGENT
from chaosorca.sources import open_prometheus

TARGETS = 20
_DELAY_MS, _PATIENT = 2, 3
"""Connections to each container that wait so many milliseconds after each answer: some 20,000 requests/s in all."""
FIRST, SECOND, FURTHER = "first target", "second target", "second target, the agent's own part"
FURTHER_CALLS = f"{FURTHER}, system calls alone"
LONGEST = {FIRST: 3.0, SECOND: 1.5, FURTHER: 0.05, FURTHER_CALLS: 0.05}
"""The limits of their medians, in seconds."""
SCRAPE_MS, MEMORY = 50, 80e6
"""The limits of the median scrape under some 20,000 requests/s, and of the agent's anonymous memory in bytes."""
_TIMED = "import time; from chaosorca.agent.ctl import main; began = time.monotonic(); main(); print(time.monotonic() - began)"
MONITORS: dict[str, dict[str, bool]] = {
    "all": {},
    "syscalls": {"http": False, "resources": False},
    "http": {"syscalls": False, "resources": False},
    "resources": {"syscalls": False, "http": False},
}


# One call


def calls(machine: Observed) -> None:
    """Print the nanoseconds that are added to a getppid."""
    found: dict[str, list[float]] = {}

    def added(name: str, without: float, program: Calls) -> None:
        found.setdefault(name, []).append(_nanoseconds(machine, program) - without)

    with contextlib.ExitStack() as stack:
        monitored, other = (stack.enter_context(calls_program(machine)) for _ in range(2))
        sleepers = [stack.enter_context(machine.container("calls", ["sleep", "infinity"])) for _ in range(TARGETS - 1)]
        pid = _pids(monitored.container)[0]
        bare: list[float] = []
        for _ in range(machine.pairs):
            without, of_other = _nanoseconds(machine, monitored), _nanoseconds(machine, other)
            bare += [without, of_other]
            with machine.floor():
                added("a pair of empty programs", without, monitored)
                added("a pair of empty programs", of_other, other)
            for number in (1, TARGETS):
                with machine.monitored(monitored.container, *sleepers[: number - 1], http=False, resources=False):
                    added(f"not monitored, {number} targets", of_other, other)
                    added(f"monitored, {number} targets", without, monitored)
            with machine.bpftrace([pid]):
                added("bpftrace on its process", without, monitored)
                added("bpftrace on another process", of_other, other)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    floor = [(one + another) / 2 for one, another in zip(*[iter(found["a pair of empty programs"])] * 2, strict=True)]
    print(f"\ngetppid of a busy thread, {statistics.median(bare):.0f} ns without: added nanoseconds, medians of the rounds")
    print(f"{'':<30}{'added':>8}{'quartiles':>14}{'/ empty pair':>14}{'quartiles':>14}{'/ bpftrace':>12}{'quartiles':>14}")
    for name, values in found.items():
        low, high = quartiles(values)
        line = f"{name:<30}{statistics.median(values):>8.0f}{f'{low:.0f}..{high:.0f}':>14}"
        for base in (floor, found["bpftrace on its process"]):
            if len(values) == len(base):
                ratios = [one / another for one, another in zip(values, base, strict=True)]
                low, high = quartiles(ratios)
                line += f"{statistics.median(ratios):>13.2f} {f'{low:.2f}..{high:.2f}':>14}"
        print(line, flush=True)


def _nanoseconds(machine: Observed, program: Calls) -> float:
    program.run(batch=1000, batches=10_000, seconds=min(0.5, machine.seconds))
    return program.nanoseconds()


def _pids(container: Container) -> list[int]:
    top = container.top()
    return sorted(int(process[top["Titles"].index("PID")]) for process in top["Processes"])


# nginx


def nginx(machine: Observed) -> None:
    """Print the throughput that nginx keeps under each way to observe it."""
    with pages(machine) as (nginx_pages, web):

        @contextlib.contextmanager
        def observed(how: str) -> Iterator[object]:
            if how == "bpftrace":
                with machine.bpftrace(_pids(web)) as one:
                    yield one
            elif how == "floor":
                with machine.floor():
                    yield None
            elif how == "tshark":
                with machine.tshark(web):
                    yield None
            elif how in MONITORS:
                with machine.monitored(web, **MONITORS[how]):
                    yield None
            else:
                yield None

        def run(how: str) -> float:
            with observed(how):
                rate = nginx_pages.requests_per_second("open")
            nginx_pages.answers()  # empties the log, whose writeback would be measured otherwise
            return rate

        print_kept("nginx under wrk: throughput kept", "requests/s", pairs_of(machine.pairs, run, machine.injectors))


# The beginning


def start(machine: Observed) -> None:
    """Print the time from `start_monitoring` to Prometheus's first sample, and the agent's own part of it for a second target."""
    times: dict[str, list[float]] = {
        FIRST: [],
        SECOND: [],
        f"{SECOND}, start_monitoring returns": [],
        FURTHER: [],
        FURTHER_CALLS: [],
    }
    start_prometheus(port=0)
    try:
        with contextlib.ExitStack() as stack:
            web, other = (stack.enter_context(machine.container("pages")) for _ in range(2))
            prometheus = open_prometheus(None)
            for _ in range(machine.pairs):
                try:
                    began = time.monotonic()
                    start_monitoring(container=web.name)
                    wait_for_scrapes(prometheus, [web.name], 1)
                    times[FIRST].append(time.monotonic() - began)
                    for name, monitors in ((FURTHER, list(MONITORS)[1:]), (FURTHER_CALLS, ["syscalls"])):
                        times[name].append(_agents_part(machine, other, monitors))
                        stop_monitoring(container=other.name)
                    wait_for_scrapes(prometheus, [web.name], 1)  # so that the next scrape is as far away as possible
                    began = time.monotonic()
                    start_monitoring(container=other.name)
                    times[f"{SECOND}, start_monitoring returns"].append(time.monotonic() - began)
                    wait_for_scrapes(prometheus, [other.name], 1)
                    times[SECOND].append(time.monotonic() - began)
                finally:
                    for one in (web, other):
                        stop_monitoring(container=one.name)
    finally:
        stop_prometheus()
    print("\nfrom start_monitoring to the first scraped sample, with the images in place: seconds")
    for name, values in times.items():
        print(
            f"{name:<55} median {statistics.median(values):.3f} ({min(values):.3f}..{max(values):.3f}, {len(values)} rounds)",
            flush=True,
        )
    medians = {name: statistics.median(times[name]) for name in LONGEST}
    if late := [f"{name} takes {medians[name]:.3f} s, not under {most}" for name, most in LONGEST.items() if medians[name] >= most]:
        raise Wrong("; ".join(late))


def _agents_part(machine: Observed, container: Container, monitors: list[str]) -> float:
    """Return the seconds in which the agent begins to monitor a container, measured inside its container, without `docker exec`."""
    asked = {"container": find_container(machine.client, str(container.name)).to_json(), "monitors": monitors}
    request = json.dumps({"do": "start_monitoring", "with": asked})
    answer, seconds = execute(machine.client.containers.get(AGENT), "python3", "-c", _TIMED, request).splitlines()
    if "ok" not in json.loads(answer):
        raise RuntimeError(f"the agent answered {answer}")
    return float(seconds)


# Many


def scale(machine: Observed) -> None:
    """Print how long a scrape takes with 20 containers under load, and the agent's memory, map entries and drops."""
    wrong: list[str] = []
    with contextlib.ExitStack() as stack:
        webs = [stack.enter_context(machine.container("pages")) for _ in range(TARGETS)]
        client = stack.enter_context(machine.container("client"))
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor())
        for web in webs:
            web.reload()
        addresses = [web.attrs["NetworkSettings"]["IPAddress"] for web in webs]
        execute(client, "sh", "-c", f"echo 'function delay() return {_DELAY_MS} end' > /tmp/delay.lua")
        seconds = max(4, round(5 * machine.seconds))

        def load(how: str) -> float:
            wrks = " ".join(f"wrk -t1 {how} -d{seconds}s http://{address}:80/open.html & " for address in addresses) + "wait"
            return sum(map(float, re.findall(r"Requests/sec:\s+([0-9.]+)", execute(client, "sh", "-c", wrks))))

        def under(how: str, longest: float) -> None:
            without = load(how)
            with machine.monitored(*webs):
                scrape(machine)
                times: list[float] = []
                over = pool.submit(load, how)
                while not over.done():
                    took, _ = scrape(machine)
                    times.append(took)
                    time.sleep(0.5)
                _, figures = scrape(machine)
                anonymous = anonymous_memory(machine)
            entries = total(figures, "chaosorca_agent_map_entries")
            dropped = total(figures, "chaosorca_agent_dropped_total")
            low, high = (one * 1000 for one in quartiles(times))
            rates = f"{over.result():,.0f} requests/s in all ({without:,.0f} without monitoring)"
            print(f"\n{TARGETS} containers, {rates}, {len(figures):,} series")
            middle, most = statistics.median(times) * 1000, max(times) * 1000
            print(f"a scrape takes {middle:.0f} ms (quartiles {low:.0f}..{high:.0f}, most {most:.0f}, {len(times)} scrapes)")
            print(
                f"the agent's anonymous memory {anonymous / 1e6:.0f} MB, {entries:.0f} map entries, {dropped:.0f} drops", flush=True
            )
            if middle >= longest:
                wrong.append(f"a scrape takes {middle:.0f} ms, not under {longest:.0f}")
            if anonymous >= MEMORY:
                wrong.append(f"the agent has {anonymous / 1e6:.0f} MB of anonymous memory, not under {MEMORY / 1e6:.0f}")
            if dropped:
                wrong.append(f"{dropped:.0f} entries were dropped")

        under(f"-c{_PATIENT} -s /tmp/delay.lua", SCRAPE_MS)
        under("-c2", math.inf)  # the processors are saturated here, and a scrape waits for one
    if wrong:
        raise Wrong("; ".join(wrong))


# Counts


def exact(machine: Observed) -> None:
    """Check the count of a million calls of eight threads, which bpftrace counts at the same time."""
    with (
        calls_program(machine) as program,
        machine.monitored(program.container, http=False, resources=False),
        machine.bpftrace(_pids(program.container)) as other,
    ):
        made = program.run(batch=1000, batches=125, threads=8, seconds=60)["calls"]
        ours = {}
        for _ in range(2):  # a new series is 0 the first time
            ours = scrape(machine)[1]
        counted = sum(value for name, value in ours.items() if "chaosorca_syscalls_total" in name and '"getppid"' in name)
        end_bpftrace(other)
        found = re.search(r"sys_enter_getppid\]: (\d+)", other.logs().decode())
    theirs = int(found[1]) if found else 0
    print(f"\n{made:,} getppid of 8 threads: {counted:,.0f} counted here, {theirs:,} by bpftrace", flush=True)
    if not counted == theirs == made:
        raise Wrong(f"of {made} calls {counted:.0f} were counted here, and {theirs} by bpftrace")


PARTS = {part.__name__: part for part in (calls, nginx, start, scale, exact)}
WAYS = (*MONITORS, "floor", "bpftrace", "tshark", "none")


def main() -> int:
    arguments = _arguments()
    for how in (signal.SIGINT, signal.SIGTERM):
        signal.signal(how, signal.default_int_handler)
    logger.setLevel(logging.ERROR)
    print(f"{arguments.pairs} rounds on {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}", flush=True)
    wrong = 0
    try:
        with Observed(arguments.ways, arguments.pairs, arguments.seconds) as machine:
            for name in arguments.only:
                try:
                    PARTS[name](machine)
                except Wrong as error:
                    wrong += 1
                    print(f"\nWRONG  {name}: {error}", flush=True)
    except KeyboardInterrupt:
        print("interrupted; everything has been removed", file=sys.stderr)
        return 130
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the cost of monitoring.")
    parser.add_argument("--pairs", type=int, help="rounds of each comparison (default 10)")
    parser.add_argument("--seconds", type=float, help="duration of a run under load (default 2)")
    parser.add_argument("--only", action="append", choices=list(PARTS), metavar="PART", help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--ways", help=f"ways to observe nginx, separated by commas (default {','.join(WAYS)})")
    parser.add_argument("--short", action="store_true", help="one round of short runs, which takes about two minutes")
    arguments = parser.parse_args()
    arguments.pairs = arguments.pairs or (1 if arguments.short else 10)
    arguments.seconds = arguments.seconds or (1.0 if arguments.short else 2.0)
    arguments.only = arguments.only or list(PARTS)
    arguments.ways = (arguments.ways or ",".join(WAYS)).split(",")
    if unknown := set(arguments.ways) - set(WAYS):
        parser.error(f"--ways does not know {unknown.pop()!r}: give some of {', '.join(WAYS)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
