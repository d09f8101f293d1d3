"""Probes during faults, and for new programs. The tracers and the kernel of these tests only record what they are sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from chaosorca.agent import timeouts
from chaosorca.agent.injectors import pool
from chaosorca.agent.injectors.records import EXEC
from chaosorca.agent.injectors.tracer import Command
from chaosorca.agent.injectors.uprobe import UprobeSession
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import parse_fault
from chaosorca.model.syscall_table import syscall_numbers

X86 = syscall_numbers("x86_64")
OPENAT, READ = (parse_fault("x86_64", name, error="EIO") for name in ("openat", "read"))
WITHIN = 20.0


class Tracer:
    """A tracer that answers every command, and does nothing."""

    pid = 1
    unreported = 0

    def __init__(self, *_: Any) -> None:
        self.sent: list[str] = []

    def send(self, command: str) -> Command:
        self.sent.append(command)
        return Command(time.monotonic())

    def call(self, command: str, within: float) -> Command:
        return self.send(command)

    def wait_for(self, command: Command, within: float) -> bool:
        return True

    def alive(self) -> bool:
        return True

    def silent_for(self) -> float:
        return 0.0

    def stop(self) -> None:
        pass

    def kill(self) -> None:
        pass


class Arming:
    """The kernel's part: the probes that are attached."""

    def __init__(self) -> None:
        self.probes: set[int] = set()
        self.mapped = 0
        self.refused: set[int] = set()
        self.uncovered: set[int] = set()
        self.untraced_calls: dict[int, int] = {}
        self.gate: threading.Event | None = None
        self.waiting = threading.Event()

    def probe(self, user: int, pids: Collection[int], numbers: Collection[int]) -> None:
        for pid in pids:
            if pid in self.refused:
                raise AgentError("no uprobe could be attached to /bin/odd: Invalid argument")
        if self.gate:
            self.waiting.set()
            self.gate.wait(WITHIN)
        self.probes |= set(numbers)

    def release(self, user: int, numbers: Collection[int] | None = None) -> None:
        self.probes -= set(self.probes if numbers is None else numbers)

    def new_code(self, number: int) -> int:
        return self.mapped

    def blocked(self, number: int) -> dict[int, int]:
        return {}

    def untraced(self, number: int) -> dict[int, int]:
        return self.untraced_calls

    def cannot(self, pids: Collection[int]) -> str:
        return next((f"/bin/{pid} enters the kernel at 0x10 by int 0x80" for pid in pids if pid in self.uncovered), "")

    def armed_by(self, key: int) -> int:
        return 0

    def armed_map(self) -> int:
        return 7

    def prepare(self, *_: Any) -> None:
        pass

    set_cgroups = set_rule = reset_untraced = drop_rule = forget = set_syscall_stops = register_tracer = prepare


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], tuple[UprobeSession, Arming]]]:
    monkeypatch.setattr(pool, "Tracer", Tracer)
    with ThreadPoolExecutor(max_workers=1) as spawner:

        def begin() -> tuple[UprobeSession, Arming]:
            arming: Any = Arming()
            return UprobeSession(X86, lambda calls: None, spawner, lambda: None, arming, lambda: [5], tmp_path), arming

        yield begin


def eventually(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + WITHIN
    while not holds() and time.monotonic() < end:
        time.sleep(0.005)
    return holds()


@pytest.mark.parametrize("others", [True, False])
def test_no_probe_of_an_ended_fault_stays_in_a_new_program(begin: Callable[[], tuple[UprobeSession, Arming]], others: bool) -> None:
    session, arming = begin()
    session.add(1, OPENAT, 60, 0)
    if others:
        session.add(2, READ, 60, 0)
    arming.gate = threading.Event()
    session._records.take_event(EXEC, 0, 77, 0)
    assert arming.waiting.wait(WITHIN)
    ending = threading.Thread(target=lambda: session.remove(1) if others else session.stop())
    ending.start()
    time.sleep(0.05)
    arming.gate.set()
    ending.join(WITHIN)
    assert not ending.is_alive()
    if not others:
        session._prober.join(WITHIN)
    assert arming.probes == ({X86["read"]} if others else set())
    session.stop()
    assert arming.probes == set()


def test_a_program_that_cannot_have_a_probe_is_a_warning(
    begin: Callable[[], tuple[UprobeSession, Arming]],
) -> None:
    session, arming = begin()
    session.add(1, OPENAT, 60, 0)
    arming.refused = {66}
    arming.probes.clear()
    session._records.take_event(EXEC, 0, 66, 0)
    session._records.take_event(EXEC, 0, 77, 0)
    (tracer,) = cast("list[Tracer]", session._pool._tracers)
    assert eventually(lambda: tracer.sent[-1] == "go 77")
    assert "go 66" in tracer.sent
    assert arming.probes == {X86["openat"]}
    assert session.warnings() == ["no uprobe could be attached to /bin/odd: Invalid argument: calls from there are not hit"]
    assert session.supervise([66]) is None
    session.stop()


def test_processes_may_be_attached_while_new_code_is_probed(begin: Callable[[], tuple[UprobeSession, Arming]]) -> None:
    session, _arming = begin()
    session.add(1, OPENAT, 60, 0)
    session.attach([10, 11], 1)
    before = session._traced
    session.attach([12], 1)
    assert (before, session._traced) == ({10, 11}, {10, 11, 12}), "an iteration over the old set is not disturbed"
    session.stop()


def test_code_whose_calls_no_probe_sees_is_a_warning_while_it_runs(
    begin: Callable[[], tuple[UprobeSession, Arming]], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, arming = begin()
    session.add(1, OPENAT, 60, 0)
    arming.uncovered = {30}
    session.supervise([10, 30])
    uncovered = ["/bin/30 enters the kernel at 0x10 by int 0x80: calls from there are not hit"]
    assert session.warnings() == uncovered
    session.supervise([10, 30, 31])
    assert session.warnings() == uncovered
    monkeypatch.setattr(timeouts, "ALL_CODE_CHECKED_EVERY", 0.0)
    session.supervise([10, 31])
    assert session.warnings() == []
    session.stop()


def test_calls_of_untraced_threads_are_a_warning(begin: Callable[[], tuple[UprobeSession, Arming]]) -> None:
    session, arming = begin()
    arming.untraced_calls = {X86["openat"]: 12}
    assert session.warnings() == [
        "12 calls of openat were not hit, because their threads had no tracer of the agent: "
        "the threads were new, their tracer was being replaced, or another process traces them"
    ]
    session.stop()
