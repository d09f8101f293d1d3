#!/usr/bin/env python3
"""Compare what each injector costs a program, and how fast it is, by interleaved pairs of runs without and with a fault.

    .venv/bin/python benchmarks/injectors.py [--pairs N] [--only NAME ...] [--injectors NAMES] [--seconds S] [--short]

The parts (`--only`) are:

- never, percent, every: nginx under wrk, with a fault on a call that it never makes, on a hundredth of its openat, on each openat;
- calls: one call of a small program;
- redis, postgres: their throughput;
- start: how soon a fault begins and ends;
- counts: whether the number of injected calls is the number of failed ones.

The runs of a pair follow each other and change places from pair to pair. Each pair gives one ratio; the tables show the median,
quartiles and extremes of these. The injector `none` is a pair without any fault: it shows how much two runs differ on this machine.
The agent runs all the time and monitors nothing. The benchmark needs what `scripts/setup` installs; requests go between its own
containers. Exit code 1: a count was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.client
import logging
import os
import re
import signal
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logzero import logger

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that this file also runs as a script

from benchmarks.parts.calls import calls_program
from benchmarks.parts.fault_start import EACCES, ON_GETPPID, ask, port_of, start
from benchmarks.parts.machine import Machine, Wrong, execute, until
from benchmarks.parts.pages import pages
from benchmarks.parts.pairs import Pair, medians, pairs_of, print_kept, quartiles
from chaosorca.engine.command import run_command

INJECTORS = ("uprobe", "ptrace", "strace", "none")
NEVER_MADE = {"syscall": "mkdirat", "error": "EACCES"}


# nginx


def nginx(machine: Machine, title: str, page: str, fault_of: Callable[[str], dict[str, Any]], forbidden: bool = False) -> None:
    """Print the throughput that is kept.

    With the fault, the number of 403 must be the number of injected calls in each run; without it, all answers are the page's own.
    """
    with pages(machine) as (nginx_pages, web):
        checked: Counter[str] = Counter()

        def run(injector: str) -> float:
            with machine.fault(web, injector, **fault_of(injector)) as injected:
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

        found = pairs_of(machine.pairs, run, machine.injectors)
    notes = {name: f"injected {checked[name]:,} = 403 answered, in each run" for name in found if name != "none"}
    print_kept(title, "requests/s", found, notes)


def never(machine: Machine) -> None:
    """Print the throughput of nginx under a fault on a call that it never makes."""
    nginx(machine, "nginx, a fault on mkdirat, which it never makes: throughput kept", "open", lambda _: NEVER_MADE)


def percent(machine: Machine) -> None:
    """Print the throughput of nginx while a hundredth of its openat fails."""

    def fault(injector: str) -> dict[str, Any]:
        return {**EACCES, "when": "100+100"} if injector == "strace" else {**EACCES, "probability": 0.01}

    nginx(machine, "nginx, 1 % of openat failing: throughput kept", "open", fault)


def every(machine: Machine) -> None:
    """Print the throughput of nginx while each openat fails."""
    title = "nginx, every openat failing, against the same server's own 403 (a page that it may not read): throughput kept"
    nginx(machine, title, "closed", lambda _: EACCES, forbidden=True)


# One call


@dataclass(frozen=True)
class Case:
    """A fault on the small program.

    Attributes:
        title: its row in the table.
        fault: the fault.
        fails: whether each call fails under it.
        how: which call the program makes (`Calls.begin`).
        neighbour: whether the calls of a container beside the target are measured.
        single: whether each call is timed by itself, which adds some 30 ns to each; otherwise a hundred are timed as one.
    """

    title: str
    fault: dict[str, Any]
    fails: bool = False
    how: int = 0
    neighbour: bool = False
    single: bool = True


_ON_POLL = {"syscall": "poll", "error": "EACCES"}
CASES = (
    Case("poll, injected: each one fails", _ON_POLL, fails=True, how=2),
    Case('poll, let pass: when="60000+"', {**_ON_POLL, "when": "60000+"}, how=2),
    Case("poll, let pass: process=..., decided by the tracer", {**_ON_POLL, "process": "no such program"}, how=2),
    Case("poll, with threads, injected: each one fails", _ON_POLL, fails=True, how=3),
    Case('poll, with threads, let pass: when="60000+"', {**_ON_POLL, "when": "60000+"}, how=3),
    Case("injected: each one fails", ON_GETPPID, fails=True),
    Case('let pass: when="60000+", decided by its number', {**ON_GETPPID, "when": "60000+"}),
    Case("let pass: process=..., decided by the tracer", {**ON_GETPPID, "process": "no such program"}),
    Case("not targeted: a fault on mkdirat", NEVER_MADE, single=False),
    Case("not targeted, made by the libc's syscall()", NEVER_MADE, how=1, single=False),
    Case("container beside it of the same image", ON_GETPPID, neighbour=True, single=False),
)


def calls(machine: Machine) -> None:
    """Print the nanoseconds of one call without and with each fault."""
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
            for injector, pairs in pairs_of(machine.pairs, functools.partial(measure, case), injectors).items():
                found[case.title, injector] = pairs
    print("\none call of a busy thread, getppid unless named: nanoseconds, the median of a run's calls; medians of the pairs")
    print(f"{'':<52}{'':<9}{'without':>8}{'with':>9}{'more':>9}{'quartiles':>18}{'ratio':>8}{'quartiles':>16}")
    shown = ""
    for (title, injector), pairs in found.items():
        more, ratios = [one.with_fault - one.without for one in pairs], [one.ratio for one in pairs]
        low, high = quartiles(more)
        without, with_fault = medians(pairs)
        amount = f"{statistics.median(more):>9,.0f}{f'{low:,.0f}..{high:,.0f}':>18}"
        low, high = quartiles(ratios)
        ratio = f"{statistics.median(ratios):>8.2f}{f'{low:.2f}..{high:.2f}':>16}"
        print(f"{title if title != shown else '':<52}{injector:<9}{without:>8,.0f}{with_fault:>9,.0f}{amount}{ratio}", flush=True)
        shown = title


# Redis and PostgreSQL


def redis(machine: Machine) -> None:
    """Print the throughput of a Redis that is in memory only: waiting for a disk would hide the injector's cost."""
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
                output = execute(client, "redis-benchmark", "-t", "set", "-c", "8", "-P", "1", "-n", str(number), "--csv")
            expected[injector] = float(output.splitlines()[-1].split(",")[1].strip('"'))
            return expected[injector]

        _never_and_percent(machine, "Redis, SET by redis-benchmark -c 8 -P 1", "read", requests_per_second)


def postgres(machine: Machine) -> None:
    """Print the throughput of PostgreSQL."""
    with (
        machine.container("postgres") as server,
        machine.container("client", network_mode=f"container:{server.name}") as client,
    ):
        until(lambda: server.exec_run(["pg_isready", "-h", "127.0.0.1"]).exit_code == 0)

        def transactions_per_second(injector: str, fault: dict[str, Any]) -> float:
            time_ = ("-T", str(max(1, round(machine.seconds))))
            with machine.fault(server, injector, **fault):
                output = execute(client, "pgbench", "-h", "127.0.0.1", "-U", "postgres", "-n", "-S", "-c", "4", *time_, "postgres")
            found = re.search(r"tps = ([0-9.]+) \(without", output)
            if not found or "number of failed transactions: 0 " not in output:
                raise Wrong(f"{injector}: pgbench printed {output!r}")
            return float(found[1])

        _never_and_percent(machine, "PostgreSQL, pgbench -S -c 4", "recvfrom", transactions_per_second)


def _never_and_percent(machine: Machine, title: str, call: str, rate: Callable[[str, dict[str, Any]], float]) -> None:
    """Print the throughput under a fault that never fires, and while a hundredth of a call fails.

    Arguments:
        call: a call that the program makes again after EAGAIN.
    """
    rate("none", {})  # afterwards what it reads is in memory
    print_kept(
        f"{title}, a fault on mkdirat, which it never makes: throughput kept",
        "a second",
        pairs_of(machine.pairs, lambda injector: rate(injector, NEVER_MADE), machine.injectors),
    )
    harmless = {"syscall": call, "error": "EAGAIN"}

    def percent_of_calls(injector: str) -> float:
        return rate(injector, {**harmless, **({"when": "100+100"} if injector == "strace" else {"probability": 0.01})})

    print_kept(
        f"{title}, 1 % of {call} failing with EAGAIN, which is retried: throughput kept",
        "a second",
        pairs_of(machine.pairs, percent_of_calls, machine.injectors),
    )


# Counts


def counts(machine: Machine) -> None:
    """Check that the number of injected calls is the number of failed ones."""
    print("\ncounts")
    wrong = 0
    with calls_program(machine) as program, pages(machine) as (nginx_pages, web):
        port = port_of(web)
        for injector in [one for one in machine.injectors if one != "none"]:
            nginx_pages.answers()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            with contextlib.closing(connection), machine.fault(web, injector, **EACCES) as injected:
                seen = Counter(ask(connection) for _ in range(5000))
            right = seen == {403: 5000} and injected == {"openat": 5000}
            wrong += not right
            text = f"5000 requests, every openat failing: answered {dict(seen)}, injected {injected['openat']}"
            _print_count(right, injector, text)
            if injector == "strace":
                continue
            with machine.fault(program.container, injector, **ON_GETPPID, probability=0.01) as injected:
                result = program.run(batch=100, batches=1000)
            right = result["calls"] == 100_000 and result["errors"] == injected["getppid"]
            right = right and abs(result["errors"] - 1000) <= 3 * (100_000 * 0.01 * 0.99) ** 0.5
            wrong += not right
            text = f"100000 getppid, probability=0.01: {result['errors']} failed (1000 +- 94), injected {injected['getppid']}"
            _print_count(right, injector, text)
            with machine.fault(program.container, injector, **ON_GETPPID, max_faults=100) as injected:
                result = program.run(batch=1, batches=10_000, threads=8)
            right = result["errors"] == injected["getppid"] == 100
            wrong += not right
            text = f"{result['calls']} getppid of 8 threads, max_faults=100: {result['errors']} failed"
            text += f", injected {injected['getppid']}"
            _print_count(right, injector, text)
    if wrong:
        raise Wrong(f"{wrong} counts are wrong")


def _print_count(right: bool, injector: str, text: str) -> None:
    print(f"{'right' if right else 'WRONG':<7}{injector:<9}{text}", flush=True)


PARTS = {part.__name__: part for part in (never, percent, every, calls, redis, postgres, start, counts)}
SHORT = ("percent", "every", "calls", "start", "counts")


def main() -> int:
    arguments = _arguments()
    for how in (signal.SIGINT, signal.SIGTERM):  # a shell starts background jobs with SIGINT ignored
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
        print("interrupted; everything has been removed", file=sys.stderr)
        return 130
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the injectors.", formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, help="pairs of each injector and case (default 10)")
    parser.add_argument("--seconds", type=float, help="duration of a run under load (default 2)")
    parser.add_argument("--only", action="append", choices=list(PARTS), metavar="PART", help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--injectors", help=f"names separated by commas (default {','.join(INJECTORS)})")
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
        parser.error(f"--injectors does not know {unknown.pop()!r}: give some of {', '.join(INJECTORS)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
