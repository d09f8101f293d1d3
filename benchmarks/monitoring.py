#!/usr/bin/env python3
"""What monitoring costs those who are monitored and those who are not, how soon it begins, and what 20 containers make of it.

    .venv/bin/python benchmarks/monitoring.py [--pairs N] [--only NAME ...] [--seconds S] [--ways NAMES] [--short]

The parts (`--only`) are: calls (one getppid of a busy program, watched and not, with 1 and with 20 targets, next to a pair of
programs that do nothing, and to bpftrace), nginx (its throughput under wrk with all monitors and with each, next to the empty pair,
bpftrace and tshark), start (from start_monitoring to Prometheus's first sample), scale (20 containers under load: scrapes, memory,
drops), exact (a million calls of eight threads, next to what bpftrace counts). Runs without and with are interleaved; what is
compared comes from the same round; medians, quartiles and extremes are told. Without means that there is no agent at all. Needs
what `scripts/setup` makes; requests go between containers of its own; all that it makes, but images, is removed. Exit code 1: a
count was wrong, or something took longer or more than it may (WRONG says what).
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
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container
from logzero import logger

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that this file runs as a script, too

from benchmarks.injectors import (
    IMAGES,
    ROOT,
    Calls,
    Machine,
    Wrong,
    calls_program,
    execute,
    pages,
    pairs_of,
    print_kept,
    quartiles,
    until,
)
from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.actions.prometheus import start_prometheus, stop_prometheus
from chaosorca.engine.agent import find_agent
from chaosorca.engine.containers import find_container
from chaosorca.engine.images import ensure_image
from chaosorca.metrics.measure import wait_for_scrapes
from chaosorca.model.contract import AGENT, CAPABILITIES, METRICS_PORT, NETWORK
from chaosorca.sources import open_prometheus

LABEL = "chaosorca-bench=monitoring"
TARGETS = 20
PROBES = "tracepoint:syscalls:sys_enter_* /pid == {pid}/ {{ @[probe] = count(); }}"
"""The paper's way, for each process."""
_TRACEFS = "mount -t tracefs none /sys/kernel/tracing; mount -t debugfs none /sys/kernel/debug; exec bpftrace -e '{program}'"
_FEWEST_PROBES = 300
_DELAY_MS, _PATIENT = 2, 3
"""Connections to each of the containers that wait so long after each answer: some 20,000 requests/s in all."""
FIRST, SECOND, FURTHER = "first target", "second target", "second target, the agent's own part"
FURTHER_CALLS = f"{FURTHER}, system calls alone"
LONGEST = {FIRST: 3.0, SECOND: 1.5, FURTHER: 0.05, FURTHER_CALLS: 0.05}
"""Seconds that the median of them may take."""
SCRAPE_MS, MEMORY = 50, 80e6
"""What the median of the scrapes may take under some 20,000 requests/s, and bytes that the agent may have of its own."""
_TIMED = "import time; from chaosorca.agent.ctl import main; began = time.monotonic(); main(); print(time.monotonic() - began)"
_QUIET = 5  # hundredths of a second of processor time in half a second
MONITORS: dict[str, dict[str, bool]] = {
    "all": {},
    "syscalls": {"http": False, "resources": False},
    "http": {"syscalls": False, "resources": False},
    "resources": {"syscalls": False, "http": False},
}


class Observed(Machine):
    """The engine without an agent, but while something is monitored."""

    images = {**IMAGES, "observers": ROOT / "benchmarks" / "images" / "observers"}  # noqa: RUF012 - nobody changes it

    def start_agent(self) -> None:
        ensure_image(self.client, "agent", None)
        if find_agent(self.client) is not None:
            raise SystemExit("an agent is at work: end its faults and monitoring first, since it is to be compared with none")

    @contextlib.contextmanager
    def monitored(self, *containers: Container, **monitors: Any) -> Iterator[None]:
        """Containers under monitoring by an agent that comes and goes with this."""
        try:
            for container in containers:
                start_monitoring(container=container.name, **monitors)
            self._settle()
            yield
        finally:
            for container in containers:
                stop_monitoring(container=container.name)
            if find_agent(self.client) is not None:
                raise Wrong("the agent is at work for somebody else")

    def _settle(self) -> None:
        """The agent reads the programs of new containers at first, which is over after some seconds."""
        pid = self.client.containers.get(AGENT).attrs["State"]["Pid"]

        def ticks() -> int:
            return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))

        def is_quiet() -> bool:
            before = ticks()
            time.sleep(0.5)
            return ticks() - before <= _QUIET

        until(is_quiet, 60)

    def beside(self, container: Container, command: list[str]) -> contextlib.AbstractContextManager[Container]:
        """A client in a container's network."""
        return self.container("client", command, network_mode=f"container:{container.name}")

    @contextlib.contextmanager
    def observer(self, command: list[str], ready: Callable[[Container], object], **options: Any) -> Iterator[Container]:
        """Somebody else who watches."""
        capabilities = {"cap_drop": ["ALL"], "cap_add": CAPABILITIES, "security_opt": ["seccomp=unconfined"]}
        with self.container("observers", command, **{**capabilities, **options}) as container:
            until(lambda: ready(container), 60)
            yield container

    @contextlib.contextmanager
    def floor(self) -> Iterator[None]:
        """Two programs that do nothing, at the entry and at the exit of every system call."""
        with self.observer(["/usr/local/lib/floor/floor", "/usr/local/lib/floor/floor.o"], lambda one: b"attached" in one.logs()):
            yield

    @contextlib.contextmanager
    def bpftrace(self, pids: list[int]) -> Iterator[Container]:
        """One bpftrace for each process, as the paper has it."""
        with contextlib.ExitStack() as stack:
            last = None
            for pid in pids:
                script = _TRACEFS.format(program=PROBES.format(pid=pid))
                last = stack.enter_context(self.observer(["sh", "-c", script], _Attached(), pid_mode="host"))
                stack.callback(_end, last)
            if last is None:
                raise Wrong("there is no process to watch")
            yield last

    @contextlib.contextmanager
    def tshark(self, web: Container) -> Iterator[None]:
        """A capture of what a container answers, of which the codes are printed."""
        command = [
            "tshark",
            "-i",
            "lo",
            "-f",
            "tcp port 80",
            "-Y",
            "http.response",
            "-T",
            "fields",
            "-e",
            "http.response.code",
            "-l",
        ]
        with self.observer(
            ["sh", "-c", " ".join(f"'{word}'" for word in command) + " >/dev/null"],
            lambda one: b"Capturing on" in one.logs(),
            network_mode=f"container:{web.name}",
        ):
            time.sleep(1)
            yield


class _Attached:
    """bpftrace does not say when it has attached all of its probes: there are no more of them then."""

    def __init__(self) -> None:
        self._seen, self._since = 0, time.monotonic()

    def __call__(self, container: Container) -> bool:
        container.reload()
        if container.status == "exited":
            raise Wrong(f"bpftrace has ended: {container.logs().decode()[-300:]}")
        pid = container.attrs["State"]["Pid"]
        try:
            number = len(list(Path(f"/proc/{pid}/fd").iterdir())) if pid else 0
        except OSError:
            number = 0
        if number != self._seen:
            self._seen, self._since = number, time.monotonic()
        time.sleep(0.1)
        return number > _FEWEST_PROBES and time.monotonic() - self._since > 1


def _end(container: Container) -> None:
    """Have bpftrace let go of its probes, which takes it longer than the engine waits for one that it removes."""
    with contextlib.suppress(docker.errors.APIError):
        container.kill("SIGINT")
    container.wait(timeout=120)


# One call


def calls(machine: Observed) -> None:
    """Nanoseconds that are added to a getppid."""
    found: dict[str, list[float]] = {}

    def added(name: str, without: float, program: Calls) -> None:
        found.setdefault(name, []).append(_nanoseconds(machine, program) - without)

    with contextlib.ExitStack() as stack:
        watched, other = (stack.enter_context(calls_program(machine)) for _ in range(2))
        sleepers = [stack.enter_context(machine.container("calls", ["sleep", "infinity"])) for _ in range(TARGETS - 1)]
        pid = _pids(watched.container)[0]
        bare: list[float] = []
        for _ in range(machine.pairs):
            without, of_other = _nanoseconds(machine, watched), _nanoseconds(machine, other)
            bare += [without, of_other]
            with machine.floor():
                added("a pair of empty programs", without, watched)
                added("a pair of empty programs", of_other, other)
            for number in (1, TARGETS):
                with machine.monitored(watched.container, *sleepers[: number - 1], http=False, resources=False):
                    added(f"not watched, {number} targets", of_other, other)
                    added(f"watched, {number} targets", without, watched)
            with machine.bpftrace([pid]):
                added("bpftrace on its process", without, watched)
                added("bpftrace on another process", of_other, other)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    floor = [(one + another) / 2 for one, another in zip(*[iter(found["a pair of empty programs"])] * 2, strict=True)]
    print(
        f"\ngetppid of a busy thread, {statistics.median(bare):.0f} ns without: nanoseconds that are added; medians of the rounds"
    )
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
    """Throughput kept."""
    with pages(machine) as (nginx_pages, web):

        @contextlib.contextmanager
        def watching(how: str) -> Iterator[object]:
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
            with watching(how):
                rate = nginx_pages.requests_per_second("open")
            nginx_pages.answers()  # else its log grows until writing it back is what is measured
            return rate

        print_kept("nginx under wrk: throughput kept", "requests/s", pairs_of(machine, run, machine.injectors))


# The beginning


def start(machine: Observed) -> None:
    """Seconds from `start_monitoring` to a sample that Prometheus has, and of what the agent itself does for a second target."""
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
                        times[name].append(_watch(machine, other, monitors))
                        stop_monitoring(container=other.name)
                    wait_for_scrapes(prometheus, [web.name], 1)  # so that the next one is as far away as it can be
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
    print("\nfrom start_monitoring to the first scraped sample, the images being there: seconds")
    for name, values in times.items():
        print(
            f"{name:<55} median {statistics.median(values):.3f} ({min(values):.3f}..{max(values):.3f}, {len(values)} rounds)",
            flush=True,
        )
    medians = {name: statistics.median(times[name]) for name in LONGEST}
    if late := [f"{name} takes {medians[name]:.3f} s, not under {most}" for name, most in LONGEST.items() if medians[name] >= most]:
        raise Wrong("; ".join(late))


def _watch(machine: Observed, container: Container, monitors: list[str]) -> float:
    """Seconds until the agent has begun to watch a container, timed beside it: without what `docker exec` takes."""
    asked = {"container": find_container(machine.client, str(container.name)).to_json(), "monitors": monitors}
    request = json.dumps({"do": "start_monitoring", "with": asked})
    answer, seconds = execute(machine.client.containers.get(AGENT), "python3", "-c", _TIMED, request).splitlines()
    if "ok" not in json.loads(answer):
        raise RuntimeError(f"the agent said {answer}")
    return float(seconds)


# Many


def scale(machine: Observed) -> None:
    """Twenty containers under load: what a scrape takes, what the agent needs, whether anything was lost."""
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
            entries = sum(value for name, value in figures.items() if name.startswith("chaosorca_agent_map_entries"))
            dropped = sum(value for name, value in figures.items() if name.startswith("chaosorca_agent_dropped_total"))
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
                wrong.append(f"the agent has {anonymous / 1e6:.0f} MB of its own, not under {MEMORY / 1e6:.0f}")
            if dropped:
                wrong.append(f"{dropped:.0f} entries were dropped")

        under(f"-c{_PATIENT} -s /tmp/delay.lua", SCRAPE_MS)
        under("-c2", math.inf)  # there a scrape is one more that waits for a processor
    if wrong:
        raise Wrong("; ".join(wrong))


def scrape(machine: Observed) -> tuple[float, dict[str, float]]:
    """How long it took, and the figures."""
    address = machine.client.containers.get(AGENT).attrs["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]
    began = time.monotonic()
    with urllib.request.urlopen(f"http://{address}:{METRICS_PORT}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    took = time.monotonic() - began
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return took, {name: float(value) for name, value in lines}


def anonymous_memory(machine: Machine) -> int:
    """Bytes that are the agent's process's own."""
    pid = machine.client.containers.get(AGENT).attrs["State"]["Pid"]
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


# Counts


def exact(machine: Observed) -> None:
    """A million calls of eight threads, which bpftrace counts at the same time."""
    with (
        calls_program(machine) as program,
        machine.monitored(program.container, http=False, resources=False),
        machine.bpftrace(_pids(program.container)) as other,
    ):
        made = program.run(batch=1000, batches=125, threads=8, seconds=60)["calls"]
        ours = {}
        for _ in range(2):  # a series that is new is 0 at first
            ours = scrape(machine)[1]
        counted = sum(value for name, value in ours.items() if "chaosorca_syscalls_total" in name and '"getppid"' in name)
        _end(other)
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
        print("interrupted; what was there has been removed", file=sys.stderr)
        return 130
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What monitoring costs.")
    parser.add_argument("--pairs", type=int, help="rounds of each comparison (default 10)")
    parser.add_argument("--seconds", type=float, help="of a run under load (default 2)")
    parser.add_argument("--only", action="append", choices=list(PARTS), metavar="PART", help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--ways", help=f"of nginx, separated by commas (default {','.join(WAYS)})")
    parser.add_argument("--short", action="store_true", help="one round of short runs: about two minutes")
    arguments = parser.parse_args()
    arguments.pairs = arguments.pairs or (1 if arguments.short else 10)
    arguments.seconds = arguments.seconds or (1.0 if arguments.short else 2.0)
    arguments.only = arguments.only or list(PARTS)
    arguments.ways = (arguments.ways or ",".join(WAYS)).split(",")
    if unknown := set(arguments.ways) - set(WAYS):
        parser.error(f"there is no way {unknown.pop()!r} to watch nginx: there are {', '.join(WAYS)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
