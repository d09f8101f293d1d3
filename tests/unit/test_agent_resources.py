"""The resource monitor, on files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chaosorca.agent.cgroups import Cgroup
from chaosorca.agent.monitors.resources import ResourceMonitor, Resources
from chaosorca.agent.proc import Io
from chaosorca.agent.targets import Target

FIRST, SECOND = 5_000_001, 5_000_002  # above what a kernel gives out, so that no process of this machine is meant


class Host:
    """A control group of version 2 and a proc file system."""

    def __init__(self, root: Path) -> None:
        self.proc, self.group = root / "proc", root / "group"
        self.group.mkdir()
        (self.group / "cpu.stat").write_text("usage_usec 1500000\n")
        (self.group / "memory.current").write_text("4096\n")
        self.target = Target("web", "0123", Cgroup({}, self.group))

    def processes(self, *pids: int) -> None:
        (self.group / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))

    def io(self, pid: int, read: int, written: int, whole: tuple[int, int] | None = None) -> None:
        """What a process's only thread has done, and what the process's own figure is (`whole`)."""
        process, thread = self.proc / str(pid), self.proc / str(pid) / "task" / str(pid)
        thread.mkdir(parents=True, exist_ok=True)
        (thread / "status").write_text("State:\tS (sleeping)\nTracerPid:\t0\n")
        (thread / "io").write_text(f"read_bytes: {read}\nwrite_bytes: {written}\n")
        (process / "io").write_text("read_bytes: {}\nwrite_bytes: {}\n".format(*(whole or (read, written))))
        (process / "net").mkdir(exist_ok=True)
        (process / "net" / "dev").write_text("\n\n lo: 9 0 0 0 0 0 0 0 9 0 0\neth0: 300 0 0 0 0 0 0 0 40 0 0\n")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    made.processes(FIRST)
    made.io(FIRST, 100, 10)
    return made


def monitor(host: Host, ended: Callable[[], dict[str, Io] | None] = dict) -> ResourceMonitor:
    return ResourceMonitor(ended, host.proc)


def test_all_figures_of_a_container(host: Host) -> None:
    assert monitor(host).read([host.target]) == {"web": Resources(1.5, 4096, 300, 40, Io(100, 10))}


def test_no_target_has_no_figures(host: Host) -> None:
    assert monitor(host).read([]) == {}


def test_io_is_the_sum_over_processes(host: Host) -> None:
    host.processes(FIRST, SECOND)
    host.io(SECOND, 1000, 5)
    assert monitor(host).read([host.target])["web"].io == Io(1100, 15)


def test_io_of_ended_threads_is_added(host: Host) -> None:
    ended = {"web": Io(1000, 500), "db": Io(7, 7)}
    assert monitor(host, lambda: ended).read([host.target])["web"].io == Io(1100, 510)


def test_io_is_the_processes_own_figure_where_the_kernel_does_not_tell(host: Host) -> None:
    host.io(FIRST, 100, 10, whole=(900, 90))
    assert monitor(host, lambda: None).read([host.target])["web"].io == Io(900, 90)
    assert monitor(host, dict).read([host.target])["web"].io == Io(100, 10)


def test_io_never_goes_down(host: Host) -> None:
    watched = monitor(host)
    told = []
    for read, written in ((100, 10), (50, 20), (120, 5), (120, 30)):
        host.io(FIRST, read, written)
        told.append(watched.read([host.target])["web"].io)
    assert told == [Io(100, 10), Io(100, 20), Io(120, 20), Io(120, 30)]


def test_what_is_forgotten_begins_again(host: Host) -> None:
    watched = monitor(host)
    watched.read([host.target])
    host.io(FIRST, 1, 1)
    watched.forget("db")
    assert watched.read([host.target])["web"].io == Io(100, 10)
    watched.forget("web")
    assert watched.read([host.target])["web"].io == Io(1, 1)


@pytest.mark.parametrize("missing", ["cpu.stat", "memory.current", "cgroup.procs"])
def test_a_container_that_ends_meanwhile_has_no_figures_and_others_have(host: Host, tmp_path: Path, missing: str) -> None:
    ended = tmp_path / "ended"
    ended.mkdir()
    other = Target("db", "4567", Cgroup({}, ended))
    for name in ("cpu.stat", "memory.current", "cgroup.procs"):
        (ended / name).write_bytes((host.group / name).read_bytes())
    (ended / missing).unlink()
    assert list(monitor(host).read([other, host.target])) == ["web"]


def test_a_container_whose_first_process_is_gone_has_no_figures(host: Host) -> None:
    host.processes(SECOND)
    assert monitor(host).read([host.target]) == {}
