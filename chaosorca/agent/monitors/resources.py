"""Monitors the use of processor, memory, network and storage by each target. The figures come from control groups and /proc."""

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
    """The resources that a container uses. Figures that this host does not provide are None.

    Attributes:
        cpu_seconds: the processor time in seconds.
        memory_bytes: the used memory in bytes, including the page cache.
        received, transmitted: the network traffic in bytes; None for a container on the host's network.
        io: the container's reads and writes.
        io_source: the source of `io`: `blkio`, `io.stat` or `/proc/PID/io`. The operations in `/proc/PID/io` are system calls.
    """

    cpu_seconds: float | None
    memory_bytes: int | None
    received: int | None
    transmitted: int | None
    io: Io | None
    io_source: str


class ResourceMonitor:
    """Reads the figures of containers, and keeps earlier figures so that no counter ever decreases.

    Storage figures come from the container's control group if that group counts accurately (io_source.py). Otherwise, they are the
    sum over the container's living and ended threads. The system call monitor provides the I/O of ended threads (`ended_io`).

    Without the system call monitor, the figures are the sum over the container's processes. The figure of a process includes its
    ended threads and the children that it has waited for. Ended processes of `docker exec` are missing.
    """

    def __init__(
        self,
        ended_io: Callable[[], dict[str, Io]],
        proc: Path = Path("/proc"),
        choose: Callable[[], IoSource] = lambda: choose_io_source(own_cgroup()),
    ) -> None:
        """
        Arguments:
            ended_io: returns the I/O of ended threads by container. Containers without this figure are left out.
            proc: the proc file system.
            choose: chooses the source of storage figures. It is called once, before the first figure is read.
        """
        self._ended_io = ended_io
        self._proc = proc
        self._io: dict[str, Io] = {}
        self._runs: dict[str, tuple[int, Io]] = {}
        self._sources: dict[str, str] = {}
        self.io_source = functools.cache(choose)

    def read(self, targets: list[Target]) -> dict[str, Resources]:
        """Return the figures by container. Containers that are not running are left out."""
        # The I/O of ended threads is read first. A thread that ends meanwhile is missing from both sums, but never counted twice.
        ended = self._ended_io()
        figures = {target.name: self._read(target, ended.get(target.name)) for target in targets}
        return {target.name: figures[target.name] for target in targets if target.cgroup.exists()}

    def warnings(self, target: Target) -> list[str]:
        """Return a warning for each unreadable figure of a running container."""
        warnings = []
        for what, ask in (("processor time", target.cgroup.cpu_seconds), ("memory in use", target.cgroup.memory_bytes)):
            try:
                ask()
            except OSError as error:
                warnings.append(f"its {what} cannot be read and is left out: {error}")
        return warnings if target.cgroup.exists() else []

    def forget(self, name: str) -> None:
        """Delete the kept figures of a container."""
        self._io.pop(name, None)
        self._runs.pop(name, None)
        self._sources.pop(name, None)

    def _read(self, target: Target, ended: Io | None) -> Resources:
        source = self.source(target)
        network = (
            None if target.host_network else _or_none(lambda: target.ask_one(lambda pid: procfs.network_bytes(self._proc, pid)))
        )
        received, transmitted = network or (None, None)
        return Resources(
            cpu_seconds=_or_none(target.cgroup.cpu_seconds),
            memory_bytes=_or_none(target.cgroup.memory_bytes),
            received=received,
            transmitted=transmitted,
            io=_or_none(lambda: self._io_of_processes(target, ended) if source == PROC else target.cgroup.io()),
            io_source=source,
        )

    def source(self, target: Target) -> str:
        """Return the source of a container's storage figures. The source never changes during monitoring, so no counter jumps."""
        if target.name not in self._sources:
            source = self.io_source().name
            if source != PROC:
                try:
                    target.cgroup.io()
                except OSError:
                    source = PROC  # the container's control group lacks the controller
            self._sources[target.name] = source
        return self._sources[target.name]

    def _io_of_processes(self, target: Target, ended: Io | None) -> Io:
        name, pids = target.name, target.pids()
        last = self._io.get(name, Io())
        if ended is None:
            # After a restart, the processes' figures leave out the I/O before the restart. A restart is recognised by a new control
            # group. The last figure before the restart is then added to the sum.
            group = target.cgroup.identity()
            last_group, before = self._runs.get(name, (group, Io()))
            self._runs[name] = group, before if last_group == group else last
            io = sum((procfs.process_io(self._proc, pid) for pid in pids), self._runs[name][1])
        else:
            io = sum((procfs.thread_io(self._proc, pid) for pid in pids), ended)
        self._io[name] = io | last
        return self._io[name]


def _or_none(ask: Callable[[], _Figure]) -> _Figure | None:
    """Return a figure; None if it cannot be read."""
    try:
        return ask()
    except OSError:
        return None
