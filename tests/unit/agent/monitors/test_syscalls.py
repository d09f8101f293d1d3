"""The system call monitor, with programs without a kernel."""

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
    """A program without a kernel. Each map has room for four entries."""

    def __init__(self) -> None:
        self.maps = {name: FakeMap(room=4) for name in syscalls._LAYOUTS}
        self.attached: list[str] = []
        self.attempts: Counter[str] = Counter()
        self.refuses = False

    def __getitem__(self, name: str) -> FakeMap:
        return self.maps[name]

    def attach(self, function: str) -> str:
        self.attempts[function] += 1
        if self.refuses:
            raise OSError(errno.EPERM, "Operation not permitted")
        self.attached.append(function)
        return function

    def detach(self, link: str) -> None:
        self.attached.remove(link)

    def monitored(self) -> dict[int, int]:
        """Return the targets by control group."""
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
    """A monitor whose program is loaded."""
    made = SyscallMonitor("x86_64")
    made._program = kernel  # type: ignore[assignment]
    return made


def test_a_map_that_is_full_of_control_groups_recovers(monitor: SyscallMonitor, kernel: Kernel) -> None:
    web = container("web", 5, 6, 7)
    monitor.attach(web)
    web.cgroup.inodes = [7, 8, 9, 10, 11]
    with pytest.raises(AgentError, match="is full"):
        monitor.attach(web)
    web.cgroup.inodes = [8, 11]
    monitor.attach(web)
    assert kernel.monitored() == {8: 1, 11: 1}
    monitor.detach("web")
    assert (kernel.monitored(), kernel.attached) == ({}, [])


def test_a_map_that_is_full_of_untimed_calls_recovers(monitor: SyscallMonitor, kernel: Kernel) -> None:
    monitor.attach(container("web", 5))
    with pytest.raises(AgentError, match="is full"):
        monitor.leave_timing_to_tracer("web", ("read", "write", "openat", "close", "sendto"))
    assert len(kernel["untimed"].content) == 4
    monitor.leave_timing_to_tracer("web", ())
    assert kernel["untimed"].content == {}


def test_a_container_without_a_unified_control_group_is_refused(monitor: SyscallMonitor) -> None:
    web = container("web")
    web.cgroup.unified = None
    with pytest.raises(AgentError, match="the system calls of container 'web' cannot be distinguished from others"):
        monitor.attach(web)
    monitor.attach(container("db"))  # it is ending: its control groups of version 1 are removed last


def test_io_of_ended_threads_is_kept_without_counts_of_calls(monitor: SyscallMonitor, kernel: Kernel) -> None:
    monitor.io_of_ended_threads = True
    kernel.refuses = True
    with pytest.raises(AgentError, match="system calls cannot be counted: the kernel refuses the tracepoints"):
        monitor.attach(container("web", 5))
    attempts = kernel.attempts.total()
    monitor.attach(container("db", 6), counting=False)
    assert kernel.attempts.total() == attempts
    kernel["ended_io"].content = {1: (1, 2, 3, 4), 9: (5, 5, 5, 5)}
    assert monitor.ended_io() == {"web": Io(1, 2, 3, 4), "db": Io()}
    assert list(kernel["ended_io"].content) == [1]
    kernel.refuses = False
    monitor.attach(container("web", 5))
    assert kernel.attached == ["on_sys_exit", "on_sys_enter"]


def test_without_type_information_there_is_no_io_of_ended_threads(monitor: SyscallMonitor) -> None:
    monitor.attach(container("web", 5))
    assert monitor.ended_io() == {}


def test_the_counts_of_a_suspended_target_continue(monitor: SyscallMonitor, kernel: Kernel) -> None:
    web, db = container("web", 5), container("db", 6)
    monitor.attach(web)
    monitor.attach(db)
    kernel["errors"].content = {(1, 0, 2): [3]}
    counted = {("web", "read", "ENOENT"): 3}
    monitor.suspend("web")
    assert (kernel.monitored(), len(kernel.attached), monitor.counts()) == ({6: 2}, 2, counted)
    for _ in range(2):
        monitor.suspend("db")
    monitor.suspend("unknown")
    assert (kernel.monitored(), kernel.attached, monitor.counts()) == ({}, [], counted)
    web.cgroup.inodes = [7]
    monitor.attach(web)
    assert (kernel.monitored(), len(kernel.attached), monitor.counts()) == ({7: 1}, 2, counted)


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


@pytest.mark.parametrize(("processors", "calls"), [(1, 8192), (2, 8192), (34, 8192), (64, 4369), (128, 2184), (1024, 1024)])
def test_the_memory_of_per_cpu_maps_is_bounded(processors: int, calls: int) -> None:
    assert syscalls._capacities(processors) == {"calls": calls, "errors": 2 * calls}
