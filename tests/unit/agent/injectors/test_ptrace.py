"""Sending commands to tracers, taking their records, and replacing tracers that do not work.

The tracer of these tests is a stand-in that speaks the protocol and traces no process: the real one is tested on containers.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chaosorca.agent import timeouts
from chaosorca.agent.histogram import Histogram, histogram_of
from chaosorca.agent.injectors.ptrace import PtraceSession
from chaosorca.agent.injectors.session import Calls, Restarts
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import parse_fault
from chaosorca.model.syscall_table import syscall_numbers

X86 = syscall_numbers("x86_64")


STAND_IN = """#!{python}
import os, struct, sys
record = struct.Struct("=IIiiqQQII")
def say(*fields):
    os.write(1, record.pack(*fields))
log = open({log!r}, "a")
for line in sys.stdin:
    number, what, *words = line.split()
    print(what, *words, file=log, flush=True)
    if what == {hangs!r}:
        continue
    if what == {dies!r}:
        sys.exit("it hurts")
    if what == "add" and "calls=39" in words:
        say(2, int(number), 0, 0, 17, 0, 0, 0, 0)
        continue
    if what == "add":
        key = int(words[0])
        say(1, key, 77, 257, -13, 1_500_000_000, 0, 0x2 | 0x100 | 0x200, 0)
        say(1, key, 76, 257, -13, 1_500_000_000, 0, 0x2 | 0x100 | 0x200, 0)
        say(1, key, 78, 0, 5, 2_000_000, 1_000_000, 0x1 | 0x10 | 0x200, 0)
        say(1, key, 79, 231, 0, 1, 0, 0x8, 0)
        say(4, key, 0, 0, 1, 0, 0, 0, 0)
    if what == "attach":
        say(3, int(number), {pid}, 0, 1, 0, 0, 0, 0)
    say(2, int(number), 0, 0, 0, 0, 0, 0, 0)
    if what == "detach":
        break
"""


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., PtraceSession]]:
    """Open a session with a stand-in that does not answer one command, or dies at one."""
    monkeypatch.setattr(timeouts, "ANSWER_WITHIN", 20)  # the stand-in starts slowly on a busy machine
    sessions = []
    with ThreadPoolExecutor(max_workers=1) as spawner:

        def begin(calls: list[Calls] | None = None, hangs: str = "", dies: str = "", proc: Path = Path("/proc")) -> PtraceSession:
            program = tmp_path / "tracer"
            log = str(tmp_path / "log")
            program.write_text(STAND_IN.format(python=sys.executable, log=log, hangs=hangs, dies=dies, pid=os.getpid()))
            program.chmod(0o755)
            taken = calls if calls is not None else []
            session = PtraceSession(X86, taken.append, spawner, lambda: 42, proc, str(program))
            session._pool._most_tracers = 2
            sessions.append(session)
            return session

        yield begin
        for session in sessions:
            session.stop()


OPENAT = parse_fault("x86_64", "openat", error="EACCES")


def test_records_become_calls_as_the_program_saw_them(begin: Callable[..., PtraceSession]) -> None:
    calls: list[Calls] = []
    session = begin(calls)
    session.add(5, OPENAT, 10, 1)
    session.stop()
    counts: Counter[tuple[Any, ...]] = Counter()
    took: dict[str, float] = defaultdict(float)
    for one in calls:  # calls that are read together are coalesced
        counts[one.key, one.syscall, one.error, one.effects, one.replaced, one.timed, one.returned] += one.count
        took[one.syscall] += one.durations.sum
    assert counts == {
        (5, "openat", "EACCES", ("error",), True, True, True): 2,
        (5, "read", "", ("delay_enter", "delay_exit"), False, True, True): 1,
        (5, "exit_group", "", ("signal",), False, False, False): 1,
    }
    assert took == {"openat": 3.0, "read": 0.002, "exit_group": 1e-9}


def test_durations_fall_into_the_same_slots_one_by_one_and_together() -> None:
    nanoseconds = [0, 1, 255, 256, 257, 511, 512, 10**6, 2**34 - 1, 2**34, 2**35, 10**12]
    one_by_one = Histogram()
    for took in nanoseconds:
        one_by_one.observe(took / 1e9)
    assert histogram_of(nanoseconds).slots == one_by_one.slots
    assert histogram_of(nanoseconds).sum == pytest.approx(one_by_one.sum)


def test_a_fault_that_ended_by_itself_has_a_reason_until_removed(begin: Callable[..., PtraceSession]) -> None:
    session = begin()
    session.add(5, OPENAT, 10, 1)
    assert session.ended() == {5: "its budget was spent"}
    session.remove(5)
    session.remove(5)
    assert session.ended() == {}


def test_a_fault_that_the_tracer_refuses_is_an_error(begin: Callable[..., PtraceSession], tmp_path: Path) -> None:
    session = begin()
    with pytest.raises(AgentError, match=r"the tracer did not accept the fault 'getpid:error=EIO': EEXIST"):
        session.add(5, parse_fault("x86_64", "getpid", error="EIO"), 10, 1)
    assert (tmp_path / "log").read_text().splitlines()[-1] == "remove 5", "a tracer that has accepted it drops it"


def test_each_process_has_a_tracer_of_its_own_up_to_a_limit(begin: Callable[..., PtraceSession], tmp_path: Path) -> None:
    def logged(what: str) -> list[str]:
        lines = (tmp_path / "log").read_text().splitlines()
        return sorted(line for line in lines if line.startswith(what))

    session = begin()
    session.add(5, parse_fault("x86_64", "read", error="EIO"), 10, 1)
    session._records.ended.clear()
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    pids = [child.pid for child in children]
    try:
        session.attach(pids, 5)
        assert len(session._pool._tracers) == 2
        assert [session._pool._tracers.index(session._pool._tracer_of[pid]) for pid in pids] == [0, 1, 0]
        assert [line.split()[1] for line in logged("add")] == ["5", "5"]
        session._records.ended.clear()
        os.kill(session._pool._tracers[1].pid, signal.SIGKILL)
        time.sleep(0.1)
        assert session.supervise(pids) is None
        assert [line.split()[1] for line in logged("add")] == ["5", "5", "5"], "the new one is sent the fault, too"
        session.remove(5)
        assert logged("remove") == ["remove 5"] * 2
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_a_process_that_could_not_be_attached_has_a_reason(begin: Callable[..., PtraceSession]) -> None:
    session = begin()
    assert session.attach([os.getpid()], 1) == {os.getpid(): f"thread {os.getpid()} could not be attached: EPERM"}
    assert session.is_attached(os.getpid()) is False
    assert session.attach([2**22 + 1], 1) == {}, "a process that has ended is left out"


def test_a_tracer_that_died_is_replaced_by_one_with_all_faults(begin: Callable[..., PtraceSession], tmp_path: Path) -> None:
    session = begin()
    session.add(5, parse_fault("x86_64", "read", error="EIO", max_faults=9), 10, 1)
    session._records.ended.clear()
    os.kill(session._pool._tracers[0].pid, signal.SIGKILL)
    time.sleep(0.1)
    assert session.supervise([1]) is None
    log = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[0] for line in log] == ["marks", "add", "marks", "add", "attach"]
    assert [line for line in log if line.startswith("marks")] == ["marks 42", "marks 42"]
    assert session.restarts.total == 1


def test_a_stopped_tracer_is_replaced_at_once(begin: Callable[..., PtraceSession]) -> None:
    session = begin()
    stopped = session._pool._tracers[0].pid
    os.kill(stopped, signal.SIGSTOP)
    time.sleep(0.1)
    assert session.supervise([]) is None
    assert session._pool._tracers[0].pid != stopped
    with pytest.raises(ProcessLookupError):
        os.kill(stopped, 0)
    assert session.restarts.total == 1


def test_unreported_calls_of_a_dead_tracer_are_in_its_ring_buffer(
    begin: Callable[..., PtraceSession],
) -> None:
    calls: list[Calls] = []
    session = begin(calls, dies="ping")
    record = struct.Struct("=IIiiqQQII")
    for serial in (9, 8):
        record.pack_into(session._pool._tracers[0]._ring, 8 + serial * record.size, 1, 5, 77, 257, -13, 1000, 0, 0x302, serial)
    end = time.monotonic() + 60
    while session.restarts.total < 2 and time.monotonic() < end:
        session.supervise([])
        time.sleep(0.05)
    assert [(call.key, call.syscall, call.error, call.count) for call in calls] == [(5, "openat", "EACCES", 2)], "once"


def test_a_tracer_that_is_silent_is_replaced(begin: Callable[..., PtraceSession], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "TRACER_HUNG_AFTER", 0.2)
    session = begin(hangs="ping")
    first = session._pool._tracers[0].pid
    assert session.supervise([]) is None
    assert session._pool._tracers[0].pid == first
    time.sleep(0.3)
    assert session.supervise([]) is None
    assert session._pool._tracers[0].pid != first


def test_a_tracer_that_keeps_dying_is_given_up(begin: Callable[..., PtraceSession], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "RESTART_LOOP_WITHIN", 1000.0)
    session = begin(dies="ping")
    reason, end = None, time.monotonic() + 60
    while reason is None and time.monotonic() < end:
        reason = session.supervise([])
        time.sleep(0.05)
    assert reason == "its tracer ended 6 times in 1000 s (it hurts)"


def test_a_tracer_that_does_not_detach_is_killed(begin: Callable[..., PtraceSession]) -> None:
    session = begin(hangs="detach")
    tracer = session._pool._tracers[0]
    began = time.monotonic()
    session.stop()
    session.stop()
    assert time.monotonic() - began < 2
    assert not tracer.alive()


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with ThreadPoolExecutor(max_workers=1) as spawner, pytest.raises(AgentError, match="could not be started: No such file"):
        PtraceSession(X86, lambda call: None, spawner, program=str(tmp_path / "none"))


def test_calls_that_were_seen_have_names(begin: Callable[..., PtraceSession]) -> None:
    session = begin()
    assert session.seen() == {}
    session._pool._state[64 * 24 + 257 * 8] = 3
    assert session.seen() == {"openat": 3}


def test_restarts_that_are_far_apart_are_no_loop() -> None:
    restarts = Restarts()
    assert [restarts.note(10.0 * i) for i in range(20)] == [None] * 20
    assert restarts.total == 20
    assert [bool(restarts.note(300.0 + i / 10)) for i in range(6)] == [False] * 5 + [True]
