#!/usr/bin/env python3
"""What each injector costs a program and how fast it is, side by side: interleaved pairs of a run without and a run with a fault.

    .venv/bin/python benchmarks/injectors.py [--pairs N] [--only NAME ...] [--injectors NAMES] [--seconds S] [--short]

The parts (`--only`) are: never, percent, every (nginx under wrk: a fault on a call that it never makes, on a hundredth of its
openat, on each of them), calls (one call of a small program), redis, postgres, start (how soon a fault begins and ends), counts
(whether what was injected is what was seen). Both runs of a pair are close to each other and change places from pair to pair; a
ratio is made of each pair, and its median, quartiles and extremes are told. The injector `none` is a pair without any fault: what
the machine itself makes of a comparison. The agent runs all the time and monitors nothing. Needs what `scripts/setup` makes;
requests go between containers of its own. Exit code 1: a count was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.client
import logging
import mmap
import os
import re
import shutil
import signal
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import docker
from docker.models.containers import Container
from logzero import logger

from chaosorca.actions.faults import start_fault, stop_fault
from chaosorca.engine.agent import ensure_agent, find_agent, retire_agent
from chaosorca.engine.command import run_command
from chaosorca.probes.faults import faults_injected

ROOT = Path(__file__).parents[1]
INJECTORS = ("uprobe", "ptrace", "strace", "none")
IMAGES = {
    **{name: ROOT / "experiments" / name for name in ("nginx", "redis", "postgres")},
    **{name: ROOT / "benchmarks" / "images" / name for name in ("client", "pages", "calls")},
}
"""In the order in which they are built: later ones are made of earlier ones."""

PREFIX = "chaosorca-bench"
NEVER_MADE = {"syscall": "mkdirat", "error": "EACCES"}
EACCES: dict[str, Any] = {"syscall": "openat", "error": "EACCES"}
SETTLE = 1.5
"""Seconds after the end of a fault before anything is measured: the kernel takes probes away a little later."""


class Wrong(Exception):
    """Something that was counted is not what it has to be."""


# The machine


class Machine:
    """The engine, the containers of this benchmark, and the agent."""

    images = IMAGES

    def __init__(self, injectors: list[str], pairs: int, seconds: float) -> None:
        self.injectors, self.pairs, self.seconds = injectors, pairs, seconds
        self.client = docker.from_env()
        self.warnings: Counter[str] = Counter()
        self._cleanup = contextlib.ExitStack()
        self._had_agent = find_agent(self.client) is not None
        self._targets: set[str] = set()

    def __enter__(self) -> Self:
        for name, path in self.images.items():
            self.client.images.build(path=str(path), tag=f"{PREFIX}-{name}", rm=True)
        self.start_agent()
        return self

    def start_agent(self) -> None:
        """It runs all the time."""
        ensure_agent(self.client, None)

    def __exit__(self, *_: object) -> None:
        previous = {how: signal.signal(how, signal.SIG_IGN) for how in (signal.SIGINT, signal.SIGTERM)}
        try:
            for target in self._targets:
                with contextlib.suppress(Exception):
                    stop_fault(container=target)
            self._cleanup.close()
            if not self._had_agent:
                retire_agent(self.client)
        finally:
            for how, handler in previous.items():
                signal.signal(how, handler)

    @contextlib.contextmanager
    def container(self, image: str, command: list[str] | None = None, **options: Any) -> Iterator[Container]:
        """A container of an image of ours, removed at the end in any case."""
        name = f"{PREFIX}-{image}-{time.monotonic_ns() % 10**9}"
        self._targets.add(name)
        self._cleanup.callback(self._remove, name)
        self.client.containers.run(f"{PREFIX}-{image}", command, name=name, detach=True, **options)
        try:
            yield self.client.containers.get(name)
        finally:
            self._remove(name)

    @contextlib.contextmanager
    def fault(self, target: Container, injector: str, **fault: Any) -> Iterator[Counter[str]]:
        """A fault while this goes on; at its end the counter has what was injected."""
        injected: Counter[str] = Counter()
        if injector == "none":
            yield injected
            return
        started = start_fault(container=target.name, injector=injector, **fault)
        try:
            if started["injector"] != injector or started["containers"][0]["not_attached"]:
                raise Wrong(f"{injector} did not attach everywhere: {started}")
            self.warnings.update(f"{injector}: {warning}" for warning in started["warnings"])
            yield injected
        finally:
            stopped = stop_fault(container=target.name)["stopped"]
            time.sleep(SETTLE)
        mine = [one for one in stopped if one["fault"] == started["fault"]]
        if mine:
            injected.update(mine[0]["injected"])
        else:  # it had ended before, its budget spent
            injected[fault["syscall"]] = faults_injected(str(target.name), fault=started["fault"])

    def new_agent(self) -> None:
        """An agent that knows nothing yet."""
        if not retire_agent(self.client):
            raise Wrong("the agent is at work for somebody else: end its faults and monitoring first")
        ensure_agent(self.client, None)

    def _remove(self, name: str) -> None:
        self._targets.discard(name)
        with contextlib.suppress(docker.errors.NotFound):
            self.client.containers.get(name).remove(force=True, v=True)


def execute(container: Container, *command: str) -> str:
    """Run a command in one of our client containers, or in a target while no fault is on it."""
    ended = run_command(container, command)
    if ended.exit_code != 0:
        raise RuntimeError(f"{command} failed: {(ended.errors or ended.output).decode(errors='replace')[-300:]}")
    return ended.output.decode(errors="replace")


def until(condition: Callable[[], object], within: float = 30.0) -> None:
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing happened in {within} s")
        time.sleep(0.005)


# Pairs


@dataclass
class Pair:
    without: float
    with_fault: float

    @property
    def ratio(self) -> float:
        return self.with_fault / self.without


Run = Callable[[str], float]
"""Measures one run by an injector, `none` for the one without a fault; a rate, or how long something takes."""


def pairs_of(machine: Machine, run: Run, injectors: list[str]) -> dict[str, list[Pair]]:
    """Interleaved: each injector has a pair before any has the next."""
    found: dict[str, list[Pair]] = {injector: [] for injector in injectors}
    for number in range(machine.pairs):
        for injector in injectors:
            if number % 2:
                with_fault = run(injector)
                found[injector].append(Pair(run("none"), with_fault))
            else:
                without = run("none")
                found[injector].append(Pair(without, run(injector)))
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def print_kept(title: str, unit: str, found: dict[str, list[Pair]], notes: dict[str, str] | None = None) -> None:
    print(f"\n{title}")
    print(f"{'':<9}{'kept':>7}{'quartiles':>16}{'min..max':>16}{'without':>12}{'with':>10} {unit}")
    for injector, pairs in found.items():
        kept = [pair.ratio for pair in pairs]
        low, high = quartiles(kept)
        without, with_fault = (statistics.median(getattr(one, side) for one in pairs) for side in ("without", "with_fault"))
        spread = f"{f'{low:.3f}..{high:.3f}':>16}{f'{min(kept):.3f}..{max(kept):.3f}':>16}"
        rates = f"{without:>12,.0f}{with_fault:>10,.0f}"
        print(
            f"{injector:<9}{statistics.median(kept):>7.3f}{spread}{rates}  {(notes or {}).get(injector, '')}".rstrip(), flush=True
        )


# nginx


class Pages:
    """nginx with a page that it may read and one that it may not, and wrk in its network."""

    def __init__(self, machine: Machine, web: Container, client: Container) -> None:
        self._machine, self._web, self._client = machine, web, client
        until(lambda: web.exec_run(["test", "-s", "/run/nginx.pid"]).exit_code == 0)
        for page, status in (("open", 200), ("closed", 403)):
            self.requests_per_second(page)
            if set(self.answers()) != {status}:
                raise Wrong(f"the {page} page is not answered by {status}")

    def requests_per_second(self, page: str) -> float:
        seconds = self._machine.seconds
        url = f"http://127.0.0.1:80/{page}.html"
        said = execute(self._client, "wrk", "-t1", "-c8", f"-d{max(1, round(seconds))}s", url)
        found = re.search(r"Requests/sec:\s+([0-9.]+)", said)
        if not found:
            raise RuntimeError(f"wrk said {said!r}")
        return float(found[1])

    def answers(self) -> Counter[int]:
        """How many requests nginx has answered with which status since this was last asked, by its own log."""
        script = "awk '{n[$9]++} END {for (s in n) print s, n[s]}' /var/log/nginx/access.log; : > /var/log/nginx/access.log"
        lines = execute(self._web, "sh", "-c", script).splitlines()
        return Counter({int(status): int(count) for status, count in map(str.split, lines)})


@contextlib.contextmanager
def pages(machine: Machine) -> Iterator[tuple[Pages, Container]]:
    with (
        machine.container("pages", ports={"80/tcp": ("127.0.0.1", None)}) as web,
        machine.container("client", network_mode=f"container:{web.name}") as client,
    ):
        yield Pages(machine, web, client), web


def nginx(machine: Machine, title: str, page: str, expected: Callable[[str], dict[str, Any]], forbidden: bool = False) -> None:
    """Throughput kept; in each run with the fault as many 403 as injected calls, without it none (but of the closed page)."""
    with pages(machine) as (nginx_pages, web):
        checked: Counter[str] = Counter()

        def run(injector: str) -> float:
            with machine.fault(web, injector, **expected(injector)) as injected:
                rate = nginx_pages.requests_per_second(page if injector == "none" else "open")
            answers = nginx_pages.answers()
            if injector == "none":
                if set(answers) != {403 if forbidden else 200}:
                    raise Wrong(f"without a fault: {dict(answers)}")
            elif set(injected) - {"openat"} or answers[403] != injected["openat"] or set(answers) - {200, 403}:
                raise Wrong(f"{injector}: injected {dict(injected)}, answered {dict(answers)}")
            else:
                checked[injector] += injected["openat"]
            return rate

        found = pairs_of(machine, run, machine.injectors)
    notes = {name: f"injected {checked[name]:,} = 403 answered, in each run" for name in found if name != "none"}
    print_kept(title, "requests/s", found, notes)


def never(machine: Machine) -> None:
    nginx(machine, "nginx, a fault on mkdirat, which it never makes: throughput kept", "open", lambda _: NEVER_MADE)


def percent(machine: Machine) -> None:
    def fault(injector: str) -> dict[str, Any]:
        return {**EACCES, "when": "100+100"} if injector == "strace" else {**EACCES, "probability": 0.01}

    nginx(machine, "nginx, 1 % of openat failing: throughput kept", "open", fault)


def every(machine: Machine) -> None:
    title = "nginx, every openat failing, against the same server's own 403 (a page that it may not read): throughput kept"
    nginx(machine, title, "closed", lambda _: EACCES, forbidden=True)


# One call


class Calls:
    """The program that times its own calls; see images/calls/calls.c, and the board's layout there."""

    _FIELDS = ("asked", "done", "stop", "how", "batch", "batches", "milliseconds", "threads", "pause")
    _SEEN = ("calls", "errors", "first_error", "last_error", "recorded")
    _HEAD = struct.Struct(f"{len(_FIELDS) + len(_SEEN)}q")
    _MOST = 65536

    def __init__(self, board: mmap.mmap, container: Container) -> None:
        self._board, self.container = board, container
        self.run(batches=1)

    def begin(
        self, batch: int = 1, batches: int = _MOST, seconds: float = 60, threads: int = 1, pause: int = 0, how: int = 0
    ) -> None:
        """
        Arguments:
            batch, batches, seconds: how many calls are timed as one, and when it ends.
            threads: how many make them.
            pause: microseconds between batches.
            how: 0: getppid; 1: the same by the libc's `syscall`; 2: poll; 3: poll of a program that has had a second thread, which
                it keeps.
        """
        asked = self._now()["asked"]
        values = (asked, asked, 0, how, batch, batches, round(seconds * 1000), threads, pause, *[0] * len(self._SEEN))
        self._HEAD.pack_into(self._board, 0, *values)
        struct.pack_into("q", self._board, 0, asked + 1)

    def end(self) -> dict[str, int]:
        struct.pack_into("q", self._board, 16, 1)
        return self.result()

    def result(self) -> dict[str, int]:
        until(lambda: self._now()["done"] == self._now()["asked"], 120)
        return self._now()

    def run(self, **round_: Any) -> dict[str, int]:
        self.begin(**round_)
        return self.result()

    def nanoseconds(self) -> float:
        """Of a call of the round that is over; the median of its batches."""
        now = self._now()
        return statistics.median(struct.unpack_from(f"{now['recorded']}q", self._board, self._HEAD.size)) / now["batch"]

    def so_far(self) -> dict[str, int]:
        return self._now()

    def _now(self) -> dict[str, int]:
        return dict(zip(self._FIELDS + self._SEEN, self._HEAD.unpack_from(self._board), strict=True))

    @classmethod
    def size(cls) -> int:
        return cls._HEAD.size + cls._MOST * 8


@contextlib.contextmanager
def calls_program(machine: Machine) -> Iterator[Calls]:
    directory = tempfile.mkdtemp(prefix="chaosorca-bench-")
    try:
        with open(f"{directory}/board", "w+b") as file:
            os.truncate(file.fileno(), Calls.size())
            board = mmap.mmap(file.fileno(), Calls.size())
        with machine.container("calls", volumes={directory: {"bind": "/board", "mode": "rw"}}) as container:
            yield Calls(board, container)
    finally:
        shutil.rmtree(directory)


@dataclass(frozen=True)
class Case:
    title: str
    fault: dict[str, Any]
    fails: bool = False
    how: int = 0
    neighbour: bool = False
    single: bool = True
    """Each call is timed by itself, which adds some 30 ns to all; else a hundred are timed as one."""


_ON_GETPPID: dict[str, Any] = {"syscall": "getppid", "error": "EACCES"}
_ON_POLL = {"syscall": "poll", "error": "EACCES"}
CASES = (
    Case("poll, injected: each one fails", _ON_POLL, fails=True, how=2),
    Case('poll, let pass: when="60000+"', {**_ON_POLL, "when": "60000+"}, how=2),
    Case("poll, let pass: process=..., decided by the tracer", {**_ON_POLL, "process": "no such program"}, how=2),
    Case("poll, with threads, injected: each one fails", _ON_POLL, fails=True, how=3),
    Case('poll, with threads, let pass: when="60000+"', {**_ON_POLL, "when": "60000+"}, how=3),
    Case("injected: each one fails", _ON_GETPPID, fails=True),
    Case('let pass: when="60000+", decided by its number', {**_ON_GETPPID, "when": "60000+"}),
    Case("let pass: process=..., decided by the tracer", {**_ON_GETPPID, "process": "no such program"}),
    Case("not targeted: a fault on mkdirat", NEVER_MADE, single=False),
    Case("not targeted, made by the libc's syscall()", NEVER_MADE, how=1, single=False),
    Case("container beside it of the same image", _ON_GETPPID, neighbour=True, single=False),
)


def calls(machine: Machine) -> None:
    found: dict[tuple[str, str], list[Pair]] = {}
    with calls_program(machine) as target, calls_program(machine) as beside:

        def measure(case: Case, injector: str) -> float:
            program = beside if case.neighbour else target
            limits = {"batch": 1, "batches": 20_000} if case.single else {"batch": 100, "batches": 2000}
            with machine.fault(target.container, injector, **case.fault) as injected:
                result = program.run(seconds=min(0.2, machine.seconds), how=case.how, **limits)
            errors = result["calls"] if case.fails and injector != "none" else 0
            if result["errors"] != errors or sum(injected.values()) != errors:
                raise Wrong(f"{case.title}, {injector}: of {result['calls']} failed {result['errors']}, injected {injected}")
            return program.nanoseconds()

        for case in CASES:
            injectors = [one for one in machine.injectors if not (one == "strace" and "process" in case.fault)]
            for injector, pairs in pairs_of(machine, functools.partial(measure, case), injectors).items():
                found[case.title, injector] = pairs
    print("\none call of a busy thread, getppid if not said: nanoseconds, the median of a run's calls; medians of the pairs")
    print(f"{'':<52}{'':<9}{'without':>8}{'with':>9}{'more':>9}{'quartiles':>18}{'ratio':>8}{'quartiles':>16}")
    shown = ""
    for (title, injector), pairs in found.items():
        more, ratios = [one.with_fault - one.without for one in pairs], [one.ratio for one in pairs]
        low, high = quartiles(more)
        without, with_fault = (statistics.median(getattr(one, side) for one in pairs) for side in ("without", "with_fault"))
        amount = f"{statistics.median(more):>9,.0f}{f'{low:,.0f}..{high:,.0f}':>18}"
        low, high = quartiles(ratios)
        ratio = f"{statistics.median(ratios):>8.2f}{f'{low:.2f}..{high:.2f}':>16}"
        print(f"{title if title != shown else '':<52}{injector:<9}{without:>8,.0f}{with_fault:>9,.0f}{amount}{ratio}", flush=True)
        shown = title


# Redis and PostgreSQL


def redis(machine: Machine) -> None:
    """In memory only: a disk that is waited for would hide what the injector costs."""
    command = ["redis-server", "--save", "", "--appendonly", "no"]
    with (
        machine.container("redis", command) as server,
        machine.container("client", network_mode=f"container:{server.name}") as client,
    ):
        until(lambda: run_command(client, ["redis-cli", "ping"]).output.strip() == b"PONG")
        expected: dict[str, float] = {}

        def requests_per_second(injector: str, fault: dict[str, Any]) -> float:
            number = max(500, round(expected.get(injector, 5000) * machine.seconds))
            with machine.fault(server, injector, **fault):
                said = execute(client, "redis-benchmark", "-t", "set", "-c", "8", "-P", "1", "-n", str(number), "--csv")
            expected[injector] = float(said.splitlines()[-1].split(",")[1].strip('"'))
            return expected[injector]

        _never_and_percent(machine, "Redis, SET by redis-benchmark -c 8 -P 1", "read", requests_per_second)


def postgres(machine: Machine) -> None:
    with (
        machine.container("postgres") as server,
        machine.container("client", network_mode=f"container:{server.name}") as client,
    ):
        until(lambda: server.exec_run(["pg_isready", "-h", "127.0.0.1"]).exit_code == 0)

        def transactions_per_second(_injector: str, fault: dict[str, Any]) -> float:
            time_ = ("-T", str(max(1, round(machine.seconds))))
            with machine.fault(server, _injector, **fault):
                said = execute(client, "pgbench", "-h", "127.0.0.1", "-U", "postgres", "-n", "-S", "-c", "4", *time_, "postgres")
            found = re.search(r"tps = ([0-9.]+) \(without", said)
            if not found or "number of failed transactions: 0 " not in said:
                raise Wrong(f"{_injector}: pgbench said {said!r}")
            return float(found[1])

        _never_and_percent(machine, "PostgreSQL, pgbench -S -c 4", "recvfrom", transactions_per_second)


def _never_and_percent(machine: Machine, title: str, call: str, rate: Callable[[str, dict[str, Any]], float]) -> None:
    """`call` is one after which the program waits until there is something to read, whatever EAGAIN came from."""
    rate("none", {})  # what is read for the first time is in memory then
    print_kept(
        f"{title}, a fault on mkdirat, which it never makes: throughput kept",
        "a second",
        pairs_of(machine, lambda injector: rate(injector, NEVER_MADE), machine.injectors),
    )
    harmless = {"syscall": call, "error": "EAGAIN"}

    def percent_of_calls(injector: str) -> float:
        return rate(injector, {**harmless, **({"when": "100+100"} if injector == "strace" else {"probability": 0.01})})

    print_kept(
        f"{title}, 1 % of {call} failing with EAGAIN, which is tried again: throughput kept",
        "a second",
        pairs_of(machine, percent_of_calls, machine.injectors),
    )


# Beginning and ending


def start(machine: Machine) -> None:
    rounds = 2 * machine.pairs
    print(f"\nbeginning and ending a fault with the agent running: milliseconds, median (min..max) of {rounds} rounds")
    print(f"{'':<38}{'start_fault returns':>22}{'first injected call':>22}{'stop_fault returns':>22}{'last injected call':>22}")
    with calls_program(machine) as program, pages(machine) as (_, web):
        port = int(web.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"])
        for injector, new, what in (
            ("uprobe", True, "agent has not seen the image"),
            ("uprobe", False, "agent has seen it"),
            ("ptrace", False, ""),
            ("strace", False, ""),
        ):
            if injector not in machine.injectors:
                continue
            for name, once in (
                ("getppid", lambda i: _calls_once(machine, program, i)),
                ("nginx", lambda i: _web_once(machine, web, port, i)),
            ):
                times = []
                for number in range(rounds + (not new)):
                    if new:
                        machine.new_agent()
                    measured = once(injector)
                    time.sleep(SETTLE)
                    if new or number:  # the first one is what makes the image known
                        times.append(measured)
                columns = [[moment[place] * 1000 for moment in times] for place in range(4)]
                texts = [f"{statistics.median(one):.0f} ({min(one):.0f}..{max(one):.0f})" for one in columns]
                print(f"{injector + ', ' + name:<16} {what:<28}{''.join(f'{text:>22}' for text in texts)}"[:200], flush=True)


_Times = tuple[float, float, float, float]


def _calls_once(machine: Machine, program: Calls, injector: str) -> _Times:
    """From the beginning of `start_fault` and `stop_fault`: until they return, until the first and the last failed call."""
    program.begin(seconds=60, batches=10**9, pause=100)
    began = time.monotonic()
    start_fault(container=program.container.name, injector=injector, **_ON_GETPPID)
    started = time.monotonic()
    until(lambda: program.so_far()["errors"])
    time.sleep(0.05)
    ending = time.monotonic()
    (stopped,) = stop_fault(container=program.container.name)["stopped"]
    ended = time.monotonic()
    time.sleep(0.05)
    seen = program.end()
    untold = seen["errors"] - stopped["injected"].get("getppid", 0)
    # strace, asked to end, leaves a call alone that it had begun to replace: it fails with ENOSYS, and nothing tells of it.
    if untold not in ((0, 1) if injector == "strace" else (0,)):
        raise Wrong(f"{injector}: {seen['errors']} calls failed, injected {stopped['injected']}")
    return started - began, seen["first_error"] / 1e9 - began, ended - ending, max(0.0, seen["last_error"] / 1e9 - ending)


def _web_once(machine: Machine, web: Container, port: int, injector: str) -> _Times:
    """The same by answers of 403 to one request after the other."""
    answers: list[tuple[int, float]] = []
    with contextlib.closing(Asking(port, answers)) as asking:
        asking.until_status(200)
        began = time.monotonic()
        start_fault(container=web.name, injector=injector, **EACCES)
        started = time.monotonic()
        asking.until_status(403)
        time.sleep(0.05)
        ending = time.monotonic()
        (stopped,) = stop_fault(container=web.name)["stopped"]
        ended = time.monotonic()
        time.sleep(0.05)
        asking.until_status(200)
    hit = [at for status, at in answers if status == 403]
    if len(hit) != sum(stopped["injected"].values()):
        raise Wrong(f"{injector}: {len(hit)} answers of 403, injected {stopped['injected']}")
    return started - began, hit[0] - began, ended - ending, max(0.0, hit[-1] - ending)


class Asking:
    """Requests, one after the other on one connection, until it is closed."""

    def __init__(self, port: int, answers: list[tuple[int, float]]) -> None:
        self._answers, self._over = answers, threading.Event()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def until_status(self, status: int) -> None:
        until(lambda: self._answers and self._answers[-1][0] == status)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._connection.close()

    def _ask(self) -> None:
        while not self._over.is_set():
            self._answers.append((ask(self._connection), time.monotonic()))
            time.sleep(0.0005)


def ask(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/open.html")
    answer = connection.getresponse()
    answer.read()
    return answer.status


# Counts


def counts(machine: Machine) -> None:
    print("\ncounts")
    wrong = 0
    with calls_program(machine) as program, pages(machine) as (nginx_pages, web):
        port = int(web.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"])
        for injector in [one for one in machine.injectors if one != "none"]:
            nginx_pages.answers()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            with contextlib.closing(connection), machine.fault(web, injector, **EACCES) as injected:
                seen = Counter(ask(connection) for _ in range(5000))
            right = seen == {403: 5000} and injected == {"openat": 5000}
            wrong += not right
            _say(right, injector, f"5000 requests, every openat failing: answered {dict(seen)}, injected {injected['openat']}")
            if injector == "strace":
                continue
            with machine.fault(program.container, injector, **_ON_GETPPID, probability=0.01) as injected:
                result = program.run(batch=100, batches=1000)
            right = result["calls"] == 100_000 and result["errors"] == injected["getppid"]
            right = right and abs(result["errors"] - 1000) <= 3 * (100_000 * 0.01 * 0.99) ** 0.5
            wrong += not right
            text = f"100000 getppid, probability=0.01: {result['errors']} failed (1000 +- 94), injected {injected['getppid']}"
            _say(right, injector, text)
            with machine.fault(program.container, injector, **_ON_GETPPID, max_faults=100) as injected:
                result = program.run(batch=1, batches=10_000, threads=8)
            right = result["errors"] == injected["getppid"] == 100
            wrong += not right
            text = f"{result['calls']} getppid of 8 threads, max_faults=100: {result['errors']} failed"
            text += f", injected {injected['getppid']}"
            _say(right, injector, text)
    if wrong:
        raise Wrong(f"{wrong} counts are wrong")


def _say(right: bool, injector: str, text: str) -> None:
    print(f"{'right' if right else 'WRONG':<7}{injector:<9}{text}", flush=True)


PARTS = {part.__name__: part for part in (never, percent, every, calls, redis, postgres, start, counts)}
SHORT = ("percent", "every", "calls", "start", "counts")


def main() -> int:
    arguments = _arguments()
    for how in (signal.SIGINT, signal.SIGTERM):  # also where it was started in the background, which ignores SIGINT
        signal.signal(how, signal.default_int_handler)
    logger.setLevel(logging.ERROR)
    print(
        f"{arguments.pairs} pairs of runs of {arguments.seconds} s on {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    wrong: list[str] = []
    try:
        with Machine(arguments.injectors, arguments.pairs, arguments.seconds) as machine:
            for name in PARTS:
                if name in arguments.only:
                    try:
                        PARTS[name](machine)
                    except Wrong as error:
                        wrong.append(f"{name}: {error}")
                        print(f"\nWRONG  {wrong[-1]}", flush=True)
            for warning, times in machine.warnings.items():
                print(f"warned {times} times, {warning}")
    except KeyboardInterrupt:
        print("interrupted; what was there has been removed", file=sys.stderr)
        return 130
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the injectors of faults.", formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, help="pairs of each injector and case (default 10)")
    parser.add_argument("--seconds", type=float, help="of a run under load (default 2)")
    parser.add_argument("--only", action="append", choices=list(PARTS), metavar="PART", help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--injectors", help=f"separated by commas (default {','.join(INJECTORS)})")
    parser.add_argument(
        "--short", action="store_true", help=f"one pair of short runs, {', '.join(SHORT)} only, without strace: under 90 s"
    )
    arguments = parser.parse_args()
    arguments.pairs = arguments.pairs or (1 if arguments.short else 10)
    arguments.only = arguments.only or (list(SHORT) if arguments.short else list(PARTS))
    arguments.seconds = arguments.seconds or (1.0 if arguments.short else 2.0)
    names = arguments.injectors or ("uprobe,ptrace" if arguments.short else ",".join(INJECTORS))
    arguments.injectors = names.split(",")
    if unknown := set(arguments.injectors) - set(INJECTORS):
        parser.error(f"there is no injector {unknown.pop()!r}: there are {', '.join(INJECTORS)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
