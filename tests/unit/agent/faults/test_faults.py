"""Faults of several containers side by side, with sessions that trace nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from chaosorca.agent.faults.choice import Choice
from chaosorca.agent.faults.faults import Faults
from chaosorca.agent.faults.ledger import Ledger
from chaosorca.agent.injectors.session import Restarts
from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.agent.monitors.requests import Requests
from chaosorca.agent.targets.target import Target
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import parse_fault
from chaosorca.model.record import FaultRecord, NotAttached


class Session:
    """A session that attaches to everything, unless the test says otherwise."""

    injector, timing = "ptrace", "by thread"

    def __init__(self) -> None:
        self.restarts = Restarts()
        self.trouble: Exception | None = None
        self.supervised = 0
        self.stopped = False
        self.attached: list[int] = []
        self.lost: list[str] = []
        self.foreign: set[int] = set()
        self.slow: set[int] = set()

    def supervise(self, pids: Collection[int]) -> str | None:
        self.supervised += 1
        if self.trouble:
            raise self.trouble
        return None

    def attach(self, pids: Collection[int], within: float) -> dict[int, str]:
        self.attached += pids
        return {pid: "it did not stop in time" for pid in pids if pid in self.slow}

    def is_attached(self, pid: int) -> bool:
        return pid not in self.foreign | self.slow

    def ended(self) -> dict[int, str]:
        return {}

    def seen(self) -> dict[str, int]:
        return {}

    def probed(self) -> dict[str, int] | None:
        return None

    def warnings(self) -> list[str]:
        return []

    def final_warnings(self) -> list[str]:
        return self.lost

    def add(self, *_: Any) -> None:
        pass

    def stop(self) -> None:
        self.stopped = True


class Monitored:
    """A monitoring of nothing, which can refuse to leave the timing to a tracer."""

    def __init__(self) -> None:
        self.refuses = ""

    def requests_to(self, container: str) -> Requests | None:
        return None

    def calls_of(self, container: str) -> dict[str, int] | None:
        return None

    def marks(self) -> int | None:
        return None

    def leave_timing_to_tracer(self, container: str, by_call: tuple[str, ...], by_thread: bool) -> None:
        if self.refuses:
            refused, self.refuses = self.refuses, ""
            raise AgentError(refused)


class Chosen(Choice):
    """A choice that opens the sessions of a test."""

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self._sessions = iter(sessions.values())
        self._last_key = 0

    def next_key(self) -> int:
        self._last_key += 1
        return self._last_key

    def begin(self, *_: Any) -> Any:
        return next(self._sessions), ""

    def then(self, session: Session) -> None:
        """Open this session next."""
        self._sessions = iter([session])


class Host:
    """One fault on each of three containers."""

    def __init__(self, root: Path) -> None:
        self.sessions = {name: Session() for name in ("a", "b", "c")}
        self.choice, self.monitored = Chosen(self.sessions), Monitored()
        self.faults = Faults(Ledger(), self.monitored, self.choice, proc=root)
        self.targets = {}
        for number, name in enumerate(self.sessions):
            group = root / name
            group.mkdir()
            (group / "cgroup.procs").write_text(f"{number + 10}\n")
            self.targets[name] = Target(name, f"id of {name}", Cgroup({}, group), proc=root)
            self.start(name, name)

    def start(self, name: str, fault_id: str) -> FaultRecord:
        fault = parse_fault("x86_64", "read", error="EIO")
        return self.faults.start(self.targets[name], fault, fault_id, "run", "auto", 0)[0]

    def warnings(self) -> dict[str, list[str]]:
        return {one.container: list(one.warnings) for one in self.faults.records()}

    def not_attached(self) -> list[list[NotAttached]]:
        return [list(one.not_attached) for one in self.faults.records()]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("trouble", [AgentError("the tracer could not be started"), OSError("the tracer could not be started")])
def test_an_error_of_one_container_leaves_the_others_alone(host: Host, trouble: Exception) -> None:
    for name in ("a", "b"):
        host.sessions[name].trouble = trouble
    host.faults.tick()
    assert {name: session.supervised for name, session in host.sessions.items()} == {"a": 1, "b": 1, "c": 1}
    reported = "it is not being followed: the tracer could not be started"
    assert host.warnings() == {"a": [reported], "b": [reported], "c": []}
    host.sessions["a"].trouble = None
    host.faults.tick()
    assert host.warnings() == {"a": [], "b": [reported], "c": []}


def test_a_fault_that_could_not_begin_leaves_nothing(host: Host) -> None:
    host.faults.stop("test")
    session = Session()
    host.choice.then(session)
    host.monitored.refuses = "the marks cannot be set"
    with pytest.raises(AgentError, match="the marks cannot be set"):
        host.start("a", "new")
    assert session.stopped
    assert not any(one.active for one in host.faults.records())


def test_a_fault_that_is_not_admitted_does_not_start(tmp_path: Path) -> None:
    def refuse() -> None:
        raise AgentError("the agent is being removed")

    faults = Faults(Ledger(), Monitored(), Chosen({}), refuse, proc=tmp_path)
    target = Target("a", "id", Cgroup({}, tmp_path), proc=tmp_path)
    with pytest.raises(AgentError, match="being removed"):
        faults.start(target, parse_fault("x86_64", "read", error="EIO"), "f", "run", "auto", 0)
    assert faults.records() == []


def test_faults_move_to_a_recreated_container(host: Host, tmp_path: Path) -> None:
    new = Target("a", "another id", host.targets["a"].cgroup, proc=tmp_path)
    host.faults.replace_target(new)
    assert {one.container: one.container_id for one in host.faults.records()} == {
        "a": "another id",
        "b": "id of b",
        "c": "id of c",
    }


def test_a_process_with_a_foreign_tracer_is_reported_until_it_is_free(host: Host, tmp_path: Path) -> None:
    session = host.sessions["a"]

    def is_traced_by(tracer: int) -> None:
        (tmp_path / "20/task/20").mkdir(parents=True, exist_ok=True)
        (tmp_path / "20/task/20/status").write_text(f"State:\tS (sleeping)\nTracerPid:\t{tracer}\n")

    (tmp_path / "77").mkdir()
    (tmp_path / "77/comm").write_text("gdb\n")
    (tmp_path / "a/cgroup.procs").write_text("10\n20\n")
    session.foreign = {20}
    is_traced_by(77)
    host.faults.tick()
    reported = [NotAttached(20, "thread 20 is being traced by process 77 (gdb)")]
    assert host.not_attached() == [reported, [], []]
    assert session.attached == []
    is_traced_by(0)
    host.faults.tick()
    assert host.not_attached() == [[], [], []]
    assert session.attached == [20]


def test_a_failed_attach_is_retried_with_backoff(host: Host, tmp_path: Path) -> None:
    session = host.sessions["a"]
    (tmp_path / "20/task/20").mkdir(parents=True)
    (tmp_path / "20/task/20/status").write_text("State:\tS (sleeping)\nTracerPid:\t0\n")
    (tmp_path / "a/cgroup.procs").write_text("10\n20\n")
    session.slow = {20}
    host.faults.tick()
    reported = [NotAttached(20, "it did not stop in time")]
    assert host.not_attached() == [reported, [], []]
    host.faults.tick()  # the first retry is due at once, the second one is not
    host.faults.tick()
    assert session.attached == [20, 20]
    host.faults._injections[0].backoff.next_try = 0
    host.faults.tick()
    assert session.attached == [20, 20, 20]
    assert host.not_attached() == [reported, [], []]
    session.slow = set()
    host.faults.tick()
    assert host.not_attached() == [[], [], []], "it was attached after all"


def test_new_processes_are_waited_for(host: Host, tmp_path: Path) -> None:
    host.faults.tick()
    assert not host.faults.wait_for_new_processes(0.05)
    (tmp_path / "20/task/20").mkdir(parents=True)
    (tmp_path / "20/task/20/status").write_text("State:\tS (sleeping)\nTracerPid:\t0\n")
    (tmp_path / "20/comm").write_text("runc:[2:INIT]\n")
    (tmp_path / "a/cgroup.procs").write_text("10\n20\n")
    assert not host.faults.wait_for_new_processes(0.05), "the runtime's own process is not the container's yet"
    (tmp_path / "20/comm").write_text("sh\n")
    assert host.faults.wait_for_new_processes(3600)
    host.faults.tick()
    assert not host.faults.wait_for_new_processes(0.05)
    (tmp_path / "30/task/30").mkdir(parents=True)
    (tmp_path / "30/task/30/status").write_text("State:\tS (sleeping)\nTracerPid:\t5\n")
    (tmp_path / "a/cgroup.procs").write_text("10\n20\n30\n40\n")
    assert not host.faults.wait_for_new_processes(0.05), "a tracee's child has its tracer, and process 40 has ended"
    (tmp_path / "a/cgroup.procs").write_text("10\n20\n")
    host.faults.stop("test")
    assert not host.faults.wait_for_new_processes(0.05), "no container has a fault"


def test_a_container_without_a_process_list_leaves_the_others_alone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = Target.pids

    def refuse(target: Target) -> list[int]:
        if target.name == "a":
            raise OSError("too many open files")
        return pids(target)

    monkeypatch.setattr(Target, "pids", refuse)
    host.faults.tick()
    assert {name: session.supervised for name, session in host.sessions.items()} == {"a": 0, "b": 1, "c": 1}
    assert list(host.faults.records()[0].warnings) == ["it is not being followed: too many open files"]


def test_calls_lost_at_the_end_are_reported(host: Host) -> None:
    host.sessions["b"].lost = ["3 calls are not in the figures"]
    assert {one.container: list(one.warnings) for one in host.faults.stop("test")} == {
        "a": [],
        "b": ["3 calls are not in the figures"],
        "c": [],
    }
