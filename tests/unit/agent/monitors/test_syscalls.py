"""Whose system calls are counted, and what they are called, by programs without a kernel."""

from __future__ import annotations

import errno
from collections import Counter
from typing import Any

import pytest

from chaosorca.agent.linux.proc import Io
from chaosorca.agent.monitors import syscalls
from chaosorca.agent.monitors.syscalls import SyscallMonitor
from chaosorca.agent.targets.target import Target
from chaosorca.model.errors import AgentError
from tests.support.fakes import FakeMap


class Kernel:
    """A program that nothing else than the test counts for."""

    def __init__(self) -> None:
        self.maps = {name: FakeMap(room=4) for name in syscalls._LAYOUTS}
        self.attached: list[str] = []
        self.asked: Counter[str] = Counter()
        self.refuses = False

    def __getitem__(self, name: str) -> FakeMap:
        return self.maps[name]

    def attach(self, function: str) -> str:
        self.asked[function] += 1
        if self.refuses:
            raise OSError(errno.EPERM, "Operation not permitted")
        self.attached.append(function)
        return function

    def detach(self, link: str) -> None:
        self.attached.remove(link)

    def watched(self) -> dict[int, int]:
        """Targets by control group."""
        return {cgroup: target for cgroup, (target, _timed_by) in self["monitored_cgroups"].content.items()}


class Group:
    """A control group."""

    def __init__(self, *ids: int) -> None:
        self.inodes = list(ids)
        self.unified: Any = "/unified"

    def ids(self) -> list[int]:
        return self.inodes

    def exists(self) -> bool:
        return True


def container(name: str, *ids: int) -> Any:
    return Target(name, "", Group(*ids))  # type: ignore[arg-type]


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def monitor(kernel: Kernel) -> SyscallMonitor:
    made = SyscallMonitor("x86_64")
    made._program = kernel  # type: ignore[assignment]
    return made


def test_control_groups_that_there_is_no_room_for_leave_nothing(monitor: SyscallMonitor, kernel: Kernel) -> None:
    web = container("web", 5, 6, 7)
    monitor.attach(web)
    web.cgroup.inodes = [7, 8, 9, 10, 11]
    with pytest.raises(AgentError, match="is full"):
        monitor.attach(web)
    web.cgroup.inodes = [8, 11]
    monitor.attach(web)
    assert kernel.watched() == {8: 1, 11: 1}
    monitor.detach("web")
    assert (kernel.watched(), kernel.attached) == ({}, [])


def test_calls_that_there_is_no_room_for_leave_nothing(monitor: SyscallMonitor, kernel: Kernel) -> None:
    monitor.attach(container("web", 5))
    with pytest.raises(AgentError, match="is full"):
        monitor.leave_timing_to_tracer("web", ("read", "write", "openat", "close", "sendto"))
    assert len(kernel["untimed"].content) == 4
    monitor.leave_timing_to_tracer("web", ())
    assert kernel["untimed"].content == {}


def test_who_has_no_control_group_in_the_unified_hierarchy_is_refused(monitor: SyscallMonitor) -> None:
    web = container("web")
    web.cgroup.unified = None
    with pytest.raises(AgentError, match="the system calls of container 'web' cannot be told apart"):
        monitor.attach(web)
    monitor.attach(container("db"))  # it is about to end: the control groups of version 1 go last


def test_whose_calls_cannot_be_counted_has_the_io_of_its_ended_threads(monitor: SyscallMonitor, kernel: Kernel) -> None:
    monitor.io_of_ended_threads = True
    kernel.refuses = True
    with pytest.raises(AgentError, match="system calls cannot be counted: this kernel lets no program see them"):
        monitor.attach(container("web", 5))
    tried = kernel.asked.total()
    monitor.attach(container("db", 6), counting=False)
    assert kernel.asked.total() == tried
    kernel["ended_io"].content = {1: (1, 2, 3, 4), 9: (5, 5, 5, 5)}
    assert monitor.ended_io() == {"web": Io(1, 2, 3, 4), "db": Io()}
    assert list(kernel["ended_io"].content) == [1]
    kernel.refuses = False
    monitor.attach(container("web", 5))
    assert kernel.attached == ["on_sys_exit", "on_sys_enter"]


def test_without_type_information_the_io_of_ended_threads_is_nobodys(monitor: SyscallMonitor) -> None:
    monitor.attach(container("web", 5))
    assert monitor.ended_io() == {}


def test_nothing_is_attached_for_who_has_ended_and_the_counts_go_on(monitor: SyscallMonitor, kernel: Kernel) -> None:
    web, db = container("web", 5), container("db", 6)
    monitor.attach(web)
    monitor.attach(db)
    kernel["errors"].content = {(1, 0, 2): [3]}
    counted = {("web", "read", "ENOENT"): 3}
    monitor.suspend("web")
    assert (kernel.watched(), len(kernel.attached), monitor.counts()) == ({6: 2}, 2, counted)
    for _ in range(2):
        monitor.suspend("db")
    monitor.suspend("nobody")
    assert (kernel.watched(), kernel.attached, monitor.counts()) == ({}, [], counted)
    web.cgroup.inodes = [7]
    monitor.attach(web)
    assert (kernel.watched(), len(kernel.attached), monitor.counts()) == ({7: 1}, 2, counted)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (20, "writev"),
        (1 << 31 | 20, "compat:20"),
        (1 << 31, "compat:0"),
        (1 << 30 | 20, "x32:20"),
        (1 << 31 | 1 << 30, "compat:1073741824"),
        (100_000, "unknown:100000"),
    ],
)
def test_calls_of_other_interfaces_have_their_own_numbers(number: int, name: str) -> None:
    assert SyscallMonitor("x86_64")._name(number) == name
