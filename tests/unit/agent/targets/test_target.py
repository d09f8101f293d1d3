"""The processes of a target. Any of them may end at any moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.agent.targets.target import Target


@pytest.fixture
def target(tmp_path: Path) -> Target:
    """A control group with the processes 5, 7 and 9. Process 5 has ended meanwhile, and 7 still belongs to the runtime."""
    group = tmp_path / "group"
    group.mkdir()
    (group / "cgroup.procs").write_text("9\n5\n7\n")
    for pid, name in ((7, "runc:[2:INIT]"), (9, "nginx")):
        (tmp_path / "proc" / str(pid)).mkdir(parents=True)
        (tmp_path / "proc" / str(pid) / "comm").write_text(name)
    return Target("web", "0123", Cgroup({}, group), proc=tmp_path / "proc")


def test_the_runtimes_own_process_is_not_the_containers(target: Target) -> None:
    assert target.pids() == [5, 9]


def test_one_that_has_not_ended_is_asked(target: Target) -> None:
    asked = []

    def question(pid: int) -> str:
        asked.append(pid)
        return (target.proc / str(pid) / "comm").read_text()

    assert target.ask_one(question) == "nginx"
    assert asked == [5, 9]


def test_one_that_may_not_be_asked_is_passed_over(target: Target) -> None:
    def question(pid: int) -> int:
        if pid in forbidden:
            raise PermissionError(13, "Permission denied", f"/proc/{pid}/ns/net")
        return pid

    forbidden = {5}
    assert target.ask_one(question) == 9
    forbidden = {5, 9}
    with pytest.raises(PermissionError, match="/proc/9/ns/net"):
        target.ask_one(question)


def test_without_any_that_is_said(target: Target) -> None:
    with pytest.raises(ProcessLookupError, match="container 'web' has no process"):
        target.ask_one(lambda pid: procfs.namespace(target.proc, pid, "net"))
