"""Processor, memory, network and storage figures of each target, from control groups and /proc."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.linux.proc import Io
from chaosorca.agent.monitors.io_source import PROC, IoSource, choose_io_source
from chaosorca.agent.targets.target import Target, own_cgroup

_Figure = TypeVar("_Figure")


@dataclass(frozen=True)
class Resources:
    """What a container uses: seconds since its start, and bytes. What this host does not tell is None, as are network figures of a
    container that is on the host's network.

    `io_source` says who told `io`: `blkio`, `io.stat`, or `/proc/PID/io`, whose operations are system calls.
    """

    cpu_seconds: float | None
    memory_bytes: int | None
    received: int | None
    transmitted: int | None
    io: Io | None
    io_source: str


class ResourceMonitor:
    """Reads figures when asked.

    What a container reads and writes is what its control group tells, where that is seen to count (io_source.py). Elsewhere it is
    the sum over the container's threads; what ended threads did comes from the kernel at their end (`ended_io`). Where the
    kernel cannot tell, a process's own figure stands in, which has its ended threads and the children that it waited for, but
    not what `docker exec` started.
    """

    def __init__(
        self,
        ended_io: Callable[[], dict[str, Io]],
        proc: Path = Path("/proc"),
        choose: Callable[[], IoSource] = lambda: choose_io_source(own_cgroup()),
    ) -> None:
        """
        Arguments:
            ended_io: what ended threads of each container had read and written; not of those that the kernel does not tell it of.
            proc: the proc file system.
            choose: tells who is to be asked for what containers read and write, the first time that it matters.
        """
        self._ended_io = ended_io
        self._proc = proc
        self._io: dict[str, Io] = {}
        self._runs: dict[str, tuple[int, Io]] = {}
        self._sources: dict[str, str] = {}
        self.io_source = functools.cache(choose)

    def read(self, targets: list[Target]) -> dict[str, Resources]:
        """Figures by container; one that does not run has none."""
        ended = self._ended_io()  # before the living: a thread that ends in between is in neither sum, for one reading
        figures = {target.name: self._read(target, ended.get(target.name)) for target in targets}
        return {target.name: figures[target.name] for target in targets if target.cgroup.exists()}

    def warnings(self, target: Target) -> list[str]:
        """What is not told of a container that runs."""
        told = []
        for what, ask in (("processor time", target.cgroup.cpu_seconds), ("memory in use", target.cgroup.memory_bytes)):
            try:
                ask()
            except OSError as error:
                told.append(f"its {what} cannot be told, and is left out: {error}")
        return told if target.cgroup.exists() else []

    def forget(self, name: str) -> None:
        """Drop what is kept of a container."""
        self._io.pop(name, None)
        self._runs.pop(name, None)
        self._sources.pop(name, None)

    def _read(self, target: Target, ended: Io | None) -> Resources:
        source = self.source(target)
        network = None if target.host_network else _told(lambda: target.ask_one(lambda pid: procfs.network_bytes(self._proc, pid)))
        received, transmitted = network or (None, None)
        return Resources(
            cpu_seconds=_told(target.cgroup.cpu_seconds),
            memory_bytes=_told(target.cgroup.memory_bytes),
            received=received,
            transmitted=transmitted,
            io=_told(lambda: self._io_of_processes(target, ended) if source == PROC else target.cgroup.io()),
            io_source=source,
        )

    def source(self, target: Target) -> str:
        """Who is asked what a container reads and writes: always the same one, or a counter would jump."""
        if target.name not in self._sources:
            source = self.io_source().name
            if source != PROC:
                try:
                    target.cgroup.io()
                except OSError:
                    source = PROC  # its group has no such controller
            self._sources[target.name] = source
        return self._sources[target.name]

    def _io_of_processes(self, target: Target, ended: Io | None) -> Io:
        name, pids = target.name, target.pids()
        last = self._io.get(name, Io())
        if ended is None:
            # What it did before it was restarted is in no process's figure any more.
            group = target.cgroup.identity()
            known, before = self._runs.get(name, (group, Io()))
            self._runs[name] = group, before if known == group else last
            io = sum((procfs.process_io(self._proc, pid) for pid in pids), self._runs[name][1])
        else:
            io = sum((procfs.thread_io(self._proc, pid) for pid in pids), ended)
        self._io[name] = io | last
        return self._io[name]


def _told(ask: Callable[[], _Figure]) -> _Figure | None:
    """A figure, None if there is none."""
    try:
        return ask()
    except OSError:
        return None
