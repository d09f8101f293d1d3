"""Faults of several containers side by side, with sessions that trace nobody."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from chaosorca.agent.faults.faults import Faults
from chaosorca.agent.faults.ledger import Ledger
from chaosorca.agent.injectors.ptrace import PtraceSession
from chaosorca.agent.injectors.session import Restarts
from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.agent.targets.target import Target
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import parse_fault


class Session:
    """A session that is attached to all, and may not keep up."""

    injector, timing = "ptrace", "by thread"

    def __init__(self) -> None:
        self.restarts = Restarts()
        self.trouble: Exception | None = None
        self.supervised = 0
        self.stopped = False
        self.attached: list[int] = []
        self.lost: list[str] = []
        self.strangers: set[int] = set()
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
        return pid not in self.strangers | self.slow

    def ended(self) -> dict[int, str]:
        return {}

    def seen(self) -> dict[str, int]:
        return {}

    def probed(self) -> dict[str, int] | None:
        return None

    def warnings(self) -> list[str]:
        return []

    def untold(self) -> list[str]:
        return self.lost

    def add(self, *_: Any) -> None:
        pass

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Faults, dict[str, Session]]:
    """One fault on each of three containers."""
    sessions = {name: Session() for name in ("a", "b", "c")}
    all_of_them = Faults("x86_64", Ledger(), lambda name: None, lambda name: None, proc=tmp_path)
    monkeypatch.setattr(all_of_them, "_open", lambda injector, target, fault, pids: (sessions[target.name], ""))
    for number, name in enumerate(sessions):
        group = tmp_path / name
        group.mkdir()
        (group / "cgroup.procs").write_text(f"{number + 10}\n")
        target = Target(name, f"id of {name}", Cgroup({}, group), proc=tmp_path)
        all_of_them.start(target, parse_fault("x86_64", "read", error="EIO"), name, "run", "auto", 0)
    return all_of_them, sessions


@pytest.mark.parametrize("trouble", [AgentError("the tracer could not be started"), OSError("the tracer could not be started")])
def test_a_container_that_cannot_be_followed_leaves_the_others_alone(
    faults: tuple[Faults, dict[str, Session]], trouble: Exception
) -> None:
    all_of_them, sessions = faults
    for name in ("a", "b"):
        sessions[name].trouble = trouble
    all_of_them.tick()
    assert {name: session.supervised for name, session in sessions.items()} == {"a": 1, "b": 1, "c": 1}
    told = "it is not being followed: the tracer could not be started"
    assert {one["container"]: one["warnings"] for one in all_of_them.status()} == {"a": [told], "b": [told], "c": []}
    sessions["a"].trouble = None
    all_of_them.tick()
    assert {one["container"]: one["warnings"] for one in all_of_them.status()} == {"a": [], "b": [told], "c": []}


def test_a_fault_that_could_not_begin_leaves_nothing(
    faults: tuple[Faults, dict[str, Session]], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_of_them, sessions = faults
    all_of_them.stop("test")
    target = next(one.target for one in all_of_them._injections if one.target.name == "a")
    session = sessions["a"] = Session()

    def refuse(name: str) -> None:
        raise AgentError("the marks cannot be set")

    monkeypatch.setattr(all_of_them, "_on_change", refuse)
    with pytest.raises(AgentError, match="the marks cannot be set"):
        all_of_them.start(target, parse_fault("x86_64", "read", error="EIO"), "new", "run", "auto", 0)
    assert session.stopped
    assert not any(one["active"] for one in all_of_them.status())


def test_a_process_that_somebody_else_traces_is_told_of_until_it_is_free(
    faults: tuple[Faults, dict[str, Session]], tmp_path: Path
) -> None:
    all_of_them, sessions = faults
    session = sessions["a"]

    def is_traced_by(tracer: int) -> None:
        (tmp_path / "20/task/20").mkdir(parents=True, exist_ok=True)
        (tmp_path / "20/task/20/status").write_text(f"State:\tS (sleeping)\nTracerPid:\t{tracer}\n")

    (tmp_path / "77").mkdir()
    (tmp_path / "77/comm").write_text("gdb\n")
    (tmp_path / "a/cgroup.procs").write_text("10\n20\n")
    session.strangers = {20}
    is_traced_by(77)
    all_of_them.tick()
    told = [{"pid": 20, "reason": "thread 20 is being traced by process 77 (gdb)"}]
    assert [one["not_attached"] for one in all_of_them.status()] == [told, [], []]
    assert session.attached == []
    is_traced_by(0)
    all_of_them.tick()
    assert [one["not_attached"] for one in all_of_them.status()] == [[], [], []]
    assert session.attached == [20]


def test_who_could_not_be_attached_is_tried_again(faults: tuple[Faults, dict[str, Session]], tmp_path: Path) -> None:
    all_of_them, sessions = faults
    session = sessions["a"]
    (tmp_path / "20/task/20").mkdir(parents=True)
    (tmp_path / "20/task/20/status").write_text("State:\tS (sleeping)\nTracerPid:\t0\n")
    (tmp_path / "a/cgroup.procs").write_text("10\n20\n")
    session.slow = {20}
    all_of_them.tick()
    told = [{"pid": 20, "reason": "it did not stop in time"}]
    assert [one["not_attached"] for one in all_of_them.status()] == [told, [], []]
    all_of_them.tick()  # for the first time, and then not at once
    all_of_them.tick()
    assert session.attached == [20, 20]
    all_of_them._injections[0].next_try = 0
    all_of_them.tick()
    assert session.attached == [20, 20, 20]
    assert [one["not_attached"] for one in all_of_them.status()] == [told, [], []]
    session.slow = set()
    all_of_them.tick()
    assert [one["not_attached"] for one in all_of_them.status()] == [[], [], []], "it was attached after all"


def test_who_comes_is_waited_for(faults: tuple[Faults, dict[str, Session]], tmp_path: Path) -> None:
    all_of_them, _ = faults
    all_of_them.tick()
    assert not all_of_them.wait_for_newcomers(0.05)
    (tmp_path / "20/task/20").mkdir(parents=True)
    (tmp_path / "20/task/20/status").write_text("State:\tS (sleeping)\nTracerPid:\t0\n")
    (tmp_path / "20/comm").write_text("runc:[2:INIT]\n")
    (tmp_path / "a/cgroup.procs").write_text("10\n20\n")
    assert not all_of_them.wait_for_newcomers(0.05), "the runtime's own process is not the container's yet"
    (tmp_path / "20/comm").write_text("sh\n")
    assert all_of_them.wait_for_newcomers(3600)
    all_of_them.tick()
    assert not all_of_them.wait_for_newcomers(0.05)
    (tmp_path / "30/task/30").mkdir(parents=True)
    (tmp_path / "30/task/30/status").write_text("State:\tS (sleeping)\nTracerPid:\t5\n")
    (tmp_path / "a/cgroup.procs").write_text("10\n20\n30\n40\n")
    assert not all_of_them.wait_for_newcomers(0.05), "a child of a traced one has its tracer, and another is gone already"
    (tmp_path / "a/cgroup.procs").write_text("10\n20\n")
    all_of_them.stop("test")
    assert not all_of_them.wait_for_newcomers(0.05), "nobody has a fault"


def test_a_container_whose_processes_cannot_be_listed_leaves_the_others_alone(
    faults: tuple[Faults, dict[str, Session]], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_of_them, sessions = faults
    pids = Target.pids

    def refuse(target: Target) -> list[int]:
        if target.name == "a":
            raise OSError("too many open files")
        return pids(target)

    monkeypatch.setattr(Target, "pids", refuse)
    all_of_them.tick()
    assert {name: session.supervised for name, session in sessions.items()} == {"a": 0, "b": 1, "c": 1}
    assert all_of_them.status()[0]["warnings"] == ["it is not being followed: too many open files"]


def test_what_is_lost_at_the_end_is_told_in_the_end(faults: tuple[Faults, dict[str, Session]]) -> None:
    all_of_them, sessions = faults
    sessions["b"].lost = ["3 calls are not in the figures"]
    assert {one["container"]: one["warnings"] for one in all_of_them.stop("test")} == {
        "a": [],
        "b": ["3 calls are not in the figures"],
        "c": [],
    }


def test_uprobes_are_refused_where_the_container_cannot_be_told_by_its_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Faults("x86_64", Ledger(), lambda name: None, lambda name: None, proc=tmp_path)
    monkeypatch.setattr(one.arming, "prepare", lambda: None)
    monkeypatch.setattr(PtraceSession, "__init__", lambda *_: None)
    target = Target("web", "id", Cgroup({"memory": tmp_path}, None), proc=tmp_path)
    fault = parse_fault("x86_64", "read", error="EIO")
    session, why = one._open("auto", target, fault, [10])
    assert (session.injector, "no control group of its own in the unified hierarchy" in why) == ("ptrace", True)
    with pytest.raises(AgentError, match="no control group of its own in the unified hierarchy"):
        one._open("uprobe", target, fault, [10])
