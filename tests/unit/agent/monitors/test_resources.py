"""The resource monitor, on files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.agent.linux.proc import Io
from chaosorca.agent.monitors.io_source import PROC, IoSource
from chaosorca.agent.monitors.resources import ResourceMonitor, Resources
from chaosorca.agent.targets.target import Target

IO = "syscr: 7\nsyscw: 3\nread_bytes: {}\nwrite_bytes: {}\n"
FIRST, SECOND = 5_000_001, 5_000_002  # higher than any pid of this machine


class Host:
    """A control group of version 2 and a proc file system."""

    def __init__(self, root: Path) -> None:
        self.proc, self.group = root / "proc", root / "group"
        self.group.mkdir()
        (self.group / "cpu.stat").write_text("usage_usec 1500000\n")
        (self.group / "memory.current").write_text("4096\n")
        self.target = Target("web", "0123", Cgroup({}, self.group))

    def restart(self) -> None:
        """Replace the control group by another at the same path."""
        self.group.rename(self.group.with_name(f"ended-{self.group.stat().st_ino}"))
        self.group.mkdir()

    def processes(self, *pids: int) -> None:
        (self.group / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))

    def io(self, pid: int, read: int, written: int, whole: tuple[int, int] | None = None) -> None:
        """Set the I/O of a process's only thread, and of the process (`whole`)."""
        process, thread = self.proc / str(pid), self.proc / str(pid) / "task" / str(pid)
        thread.mkdir(parents=True, exist_ok=True)
        (thread / "status").write_text("State:\tS (sleeping)\nTracerPid:\t0\n")
        (thread / "io").write_text(IO.format(read, written))
        (process / "io").write_text(IO.format(*(whole or (read, written))))
        (process / "net").mkdir(exist_ok=True)
        (process / "net" / "dev").write_text("\n\n lo: 9 0 0 0 0 0 0 0 9 0 0\neth0: 300 0 0 0 0 0 0 0 40 0 0\n")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    made.processes(FIRST)
    made.io(FIRST, 100, 10)
    return made


def monitor(host: Host, ended: Callable[[], dict[str, Io]] = lambda: {"web": Io()}, source: str = PROC) -> ResourceMonitor:
    return ResourceMonitor(ended, host.proc, lambda: IoSource(source, ""))


def test_all_figures_of_a_container(host: Host) -> None:
    assert monitor(host).read([host.target]) == {"web": Resources(1.5, 4096, 300, 40, Io(100, 10, 7, 3), PROC)}


def test_without_targets_there_are_no_figures(host: Host) -> None:
    assert monitor(host).read([]) == {}


def test_io_is_the_sum_over_processes(host: Host) -> None:
    host.processes(FIRST, SECOND)
    host.io(SECOND, 1000, 5)
    assert monitor(host).read([host.target])["web"].io == Io(1100, 15, 14, 6)


def test_io_of_ended_threads_is_added(host: Host) -> None:
    ended = {"web": Io(1000, 500, 20, 30), "db": Io(7, 7, 7, 7)}
    assert monitor(host, lambda: ended).read([host.target])["web"].io == Io(1100, 510, 27, 33)


def test_io_is_that_of_processes_without_that_of_ended_threads(host: Host) -> None:
    host.io(FIRST, 100, 10, whole=(900, 90))
    assert monitor(host, lambda: {"db": Io()}).read([host.target])["web"].io == Io(900, 90, 7, 3)
    assert monitor(host).read([host.target])["web"].io == Io(100, 10, 7, 3)


def test_io_never_decreases(host: Host) -> None:
    reader = monitor(host)
    figures = []
    for read, written in ((100, 10), (50, 20), (120, 5), (120, 30)):
        host.io(FIRST, read, written)
        figures.append(reader.read([host.target])["web"].io)
    assert figures == [Io(read, written, 7, 3) for read, written in ((100, 10), (100, 20), (120, 20), (120, 30))]


def test_a_forgotten_container_starts_again(host: Host) -> None:
    reader = monitor(host)
    reader.read([host.target])
    host.io(FIRST, 1, 1)
    reader.forget("db")
    assert reader.read([host.target])["web"].io == Io(100, 10, 7, 3)
    reader.forget("web")
    assert reader.read([host.target])["web"].io == Io(1, 1, 7, 3)


def test_the_hosts_network_gives_no_network_figures(host: Host) -> None:
    host.target.host_network = True
    resources = monitor(host).read([host.target])["web"]
    assert (resources.received, resources.transmitted, resources.memory_bytes) == (None, None, 4096)


def test_io_is_that_of_the_control_group_where_it_counts(host: Host) -> None:
    stat = host.group / "io.stat"
    stat.write_text("8:0 rbytes=4096 wbytes=512 rios=2 wios=1\n")
    reader = monitor(host, source="io.stat")
    assert reader.read([host.target])["web"].io == Io(4096, 512, 2, 1)
    stat.write_text("8:0 rbytes=0 wbytes=8 rios=0 wios=1\n")
    assert reader.read([host.target])["web"].io == Io(0, 8, 0, 1), "a restarted container starts again"
    stat.unlink()
    resources = reader.read([host.target])["web"]
    assert (resources.io, resources.io_source) == (None, "io.stat"), "the source does not change, so that no counter jumps"
    reader.forget("web")
    resources = reader.read([host.target])["web"]
    assert (resources.io, resources.io_source) == (Io(100, 10, 7, 3), PROC)


def test_the_source_of_io_is_chosen_once_and_only_when_needed(host: Host) -> None:
    choices: list[int] = []
    reader = ResourceMonitor(dict, host.proc, lambda: choices.append(1) or IoSource(PROC, "why"))
    assert choices == []
    for _ in range(2):
        reader.read([host.target])
    assert (choices, reader.io_source().why) == ([1], "why")


@pytest.mark.parametrize(
    ("missing", "left", "warning"),
    [
        (
            "cpu.stat",
            Resources(None, 4096, 300, 40, Io(100, 10, 7, 3), PROC),
            "its processor time cannot be read and is left out: ",
        ),
        ("memory.current", Resources(1.5, None, 300, 40, Io(100, 10, 7, 3), PROC), "its memory in use cannot be read and is left"),
        ("cgroup.procs", Resources(1.5, 4096, None, None, Io(), PROC), ""),
    ],
)
def test_a_missing_figure_leaves_the_others(host: Host, missing: str, left: Resources, warning: str) -> None:
    reader = monitor(host)
    assert reader.warnings(host.target) == []
    (host.group / missing).unlink()
    assert reader.read([host.target]) == {"web": left}
    warnings = reader.warnings(host.target)
    assert len(warnings) == bool(warning)
    assert all(one.startswith(warning) and missing in one for one in warnings)


def test_only_running_containers_have_figures(host: Host, tmp_path: Path) -> None:
    other = Target("db", "4567", Cgroup({}, tmp_path / "ended"))
    reader = monitor(host)
    assert list(reader.read([other, host.target])) == ["web"]
    assert reader.warnings(other) == []


def test_a_container_without_its_first_process_has_no_network_figures(host: Host) -> None:
    host.processes(SECOND)
    resources = monitor(host).read([host.target])["web"]
    assert (resources.cpu_seconds, resources.received, resources.transmitted) == (1.5, None, None)


def test_io_of_processes_continues_after_a_restart(host: Host) -> None:
    reader = monitor(host, dict)
    figures = []
    for process, read, restarted in ((FIRST, 100, False), (SECOND, 30, True), (SECOND, 50, False), (FIRST, 5, True)):
        if restarted:
            host.restart()
        host.processes(process)
        host.io(process, read, 1)
        figures.append(reader.read([host.target])["web"].io)
    assert figures == [Io(100, 1, 7, 3), Io(130, 2, 14, 6), Io(150, 2, 14, 6), Io(155, 3, 21, 9)]
    reader.forget("web")
    assert reader.read([host.target])["web"].io == Io(5, 1, 7, 3)
