"""How soon a fault begins and ends."""

from __future__ import annotations

import contextlib
import http.client
import statistics
import threading
import time
from typing import Any

from docker.models.containers import Container

from benchmarks.parts.calls import Calls, calls_program
from benchmarks.parts.machine import SETTLE, Machine, Wrong, until
from benchmarks.parts.pages import pages
from chaosorca.actions.faults import start_fault, stop_fault

EACCES: dict[str, Any] = {"syscall": "openat", "error": "EACCES"}
ON_GETPPID: dict[str, Any] = {"syscall": "getppid", "error": "EACCES"}
_Times = tuple[float, float, float, float]


def start(machine: Machine) -> None:
    """Print how long it takes until `start_fault` and `stop_fault` return, and until the first and after the last injected call."""
    rounds = 2 * machine.pairs
    print(f"\nbeginning and ending a fault with the agent running: milliseconds, median (min..max) of {rounds} rounds")
    print(f"{'':<38}{'start_fault returns':>22}{'first injected call':>22}{'stop_fault returns':>22}{'last injected call':>22}")
    with calls_program(machine) as program, pages(machine) as (_, web):
        port = port_of(web)
        for injector, new, what in (
            ("uprobe", True, "agent has not seen the image"),
            ("uprobe", False, "agent has seen it"),
            ("ptrace", False, ""),
            ("strace", False, ""),
        ):
            if injector not in machine.injectors:
                continue
            for name, once in (
                ("getppid", lambda i: _calls_once(program, i)),
                ("nginx", lambda i: _web_once(web, port, i)),
            ):
                times = []
                for number in range(rounds + (not new)):
                    if new:
                        machine.new_agent()
                    measured = once(injector)
                    time.sleep(SETTLE)
                    if new or number:  # in the first round the agent reads the image's programs
                        times.append(measured)
                columns = [[moment[place] * 1000 for moment in times] for place in range(4)]
                texts = [f"{statistics.median(one):.0f} ({min(one):.0f}..{max(one):.0f})" for one in columns]
                print(f"{injector + ', ' + name:<16} {what:<28}{''.join(f'{text:>22}' for text in texts)}"[:200], flush=True)


def port_of(web: Container) -> int:
    """Return the port of 127.0.0.1 on which a container serves HTTP."""
    return int(web.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"])


def ask(connection: http.client.HTTPConnection) -> int:
    """Return the status of a request for the page that nginx may read."""
    connection.request("GET", "/open.html")
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _calls_once(program: Calls, injector: str) -> _Times:
    """Measure from the beginning of `start_fault` and `stop_fault`: until they return, until the first and the last failed call."""
    program.begin(seconds=60, batches=10**9, pause=100)
    began = time.monotonic()
    start_fault(container=program.container.name, injector=injector, **ON_GETPPID)
    started = time.monotonic()
    until(lambda: program.so_far()["errors"])
    time.sleep(0.05)
    ending = time.monotonic()
    (stopped,) = stop_fault(container=program.container.name)["stopped"]
    ended = time.monotonic()
    time.sleep(0.05)
    seen = program.end()
    uncounted = seen["errors"] - stopped["injected"].get("getppid", 0)
    # When strace is ended, a call that it has begun to replace fails with ENOSYS, and strace does not print it.
    if uncounted not in ((0, 1) if injector == "strace" else (0,)):
        raise Wrong(f"{injector}: {seen['errors']} calls failed, injected {stopped['injected']}")
    return started - began, seen["first_error"] / 1e9 - began, ended - ending, max(0.0, seen["last_error"] / 1e9 - ending)


def _web_once(web: Container, port: int, injector: str) -> _Times:
    """Measure the same by the answers of 403 to one request after the other."""
    answers: list[tuple[int, float]] = []
    with contextlib.closing(_Requests(port, answers)) as requests:
        requests.until_status(200)
        began = time.monotonic()
        start_fault(container=web.name, injector=injector, **EACCES)
        started = time.monotonic()
        requests.until_status(403)
        time.sleep(0.05)
        ending = time.monotonic()
        (stopped,) = stop_fault(container=web.name)["stopped"]
        ended = time.monotonic()
        time.sleep(0.05)
        requests.until_status(200)
    hit = [at for status, at in answers if status == 403]
    if len(hit) != sum(stopped["injected"].values()):
        raise Wrong(f"{injector}: {len(hit)} answers of 403, injected {stopped['injected']}")
    return started - began, hit[0] - began, ended - ending, max(0.0, hit[-1] - ending)


class _Requests:
    """Requests, one after the other on one connection, until it is closed."""

    def __init__(self, port: int, answers: list[tuple[int, float]]) -> None:
        self._answers, self._over = answers, threading.Event()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def until_status(self, status: int) -> None:
        """Wait until the last answer has a status."""
        until(lambda: self._answers and self._answers[-1][0] == status)

    def close(self) -> None:
        """End the requests."""
        self._over.set()
        self._thread.join()
        self._connection.close()

    def _ask(self) -> None:
        while not self._over.is_set():
            self._answers.append((ask(self._connection), time.monotonic()))
            time.sleep(0.0005)
