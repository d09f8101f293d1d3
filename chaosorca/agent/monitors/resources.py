"""Processor, memory, network and storage figures of each target, from control groups and /proc."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chaosorca.agent import proc as procfs
from chaosorca.agent.proc import Io
from chaosorca.agent.targets import Target


@dataclass(frozen=True)
class Resources:
    """What a container uses: seconds since its start, and bytes; no network figures of one that is on the host's network."""

    cpu_seconds: float
    memory_bytes: int
    received: int | None
    transmitted: int | None
    io: Io


class ResourceMonitor:
    """Reads figures when asked.

    Storage bytes are the sum over the container's threads, because `blkio.*` stays 0 on some hosts; what ended threads did comes
    from the kernel at their end (`ended_io`). Where the kernel cannot tell, a process's own figure stands in, which has its
    ended threads and the children that it waited for, but not what `docker exec` started.
    """

    def __init__(self, ended_io: Callable[[], dict[str, Io] | None], proc: Path = Path("/proc")) -> None:
        self._ended_io = ended_io
        self._proc = proc
        self._io: dict[str, Io] = {}

    def read(self, targets: list[Target]) -> dict[str, Resources]:
        """Figures by container; one that does not run has none."""
        ended = self._ended_io()  # before the living: a thread that ends in between is in neither sum, for one reading
        result: dict[str, Resources] = {}
        for target in targets:
            try:
                result[target.name] = self._read(target, ended)
            except OSError:
                continue  # it ended while it was read
        return result

    def forget(self, name: str) -> None:
        """Drop what is kept of a container."""
        self._io.pop(name, None)

    def _read(self, target: Target, ended: dict[str, Io] | None) -> Resources:
        pids = target.pids()
        if not pids:
            raise ProcessLookupError(target.name)
        if ended is None:
            io = sum((procfs.process_io(self._proc, pid) for pid in pids), Io())
        else:
            io = sum((procfs.thread_io(self._proc, pid) for pid in pids), ended.get(target.name, Io()))
        before = self._io.get(target.name, Io())
        io = self._io[target.name] = Io(max(io.read, before.read), max(io.written, before.written))
        received, transmitted = (None, None) if target.host_network else procfs.network_bytes(self._proc, pids[0])
        return Resources(target.cgroup.cpu_seconds(), target.cgroup.memory_bytes(), received, transmitted, io)
