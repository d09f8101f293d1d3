"""A target: what the agent keeps of a container, and its processes right now."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.linux.cgroups import Cgroup, cgroup_of
from chaosorca.model.contract import HOST_CGROUPS
from chaosorca.model.errors import AgentError

_Answer = TypeVar("_Answer")
_EXITING = 0x4
"""In the flags of /proc/PID/stat: the process is ending (linux/sched.h, PF_EXITING)."""


@dataclass
class Target:
    """A container: its name, its full id, and the control group of all its processes."""

    name: str
    id: str
    cgroup: Cgroup
    host_network: bool = False
    shared_network: bool = False
    warnings: list[str] = field(default_factory=list)
    proc: Path = Path("/proc")

    def pids(self) -> list[int]:
        """Return its processes now; none while it does not run.

        The runtime's own process that is about to become a `docker exec` process is left out: it is not yet the container's.
        """
        return list(self._pids())

    def new_pids(self, seen: Collection[int]) -> Iterator[int]:
        """Yield its processes that have not been seen. This is cheap enough for polling."""
        return (pid for pid in self.cgroup.pids() if pid not in seen and not _is_runtime(self.proc, pid))

    def ask_one(self, question: Callable[[int], _Answer]) -> _Answer:
        """Ask one process what all processes of the container would answer alike.

        Arguments:
            question: takes a process's number; a process that ends meanwhile is skipped.

        Raises:
            ProcessLookupError: the container does not run.
            PermissionError: no process may be asked.
        """
        refused: PermissionError | None = None
        for pid in self._pids():
            try:
                return question(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
            except PermissionError as error:  # the kernel also answers this for a process that has freed its memory to exit
                refused = error
        raise refused or ProcessLookupError(f"container {self.name!r} has no process")

    def _pids(self) -> Iterator[int]:
        return (pid for pid in self.cgroup.pids() if not _is_runtime(self.proc, pid))


def _is_runtime(proc: Path, pid: int) -> bool:
    return procfs.command_name(proc, pid).startswith("runc:[")


def find_target(container: dict[str, Any], proc: Path = Path("/proc")) -> Target:
    """Find a container by its first process.

    Arguments:
        container: its `name`, which its series carry; its full `id`; its first process's `pid` in the host's pid namespace;
            whether it uses the host's network (`host_network`) or another container's (`shared_network`).
        proc: the proc file system.

    Raises:
        AgentError: there is no such process, or its control group is not the container's own.
    """
    name, pid = container["name"], int(container["pid"])
    cgroup: Cgroup | None = None
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        cgroup = cgroup_of(proc, pid, Path(HOST_CGROUPS), container["id"])
    if cgroup is None:
        # The kernel shows an ending process in the host's control groups of version 1.
        if _is_ending(proc, pid):
            raise AgentError(f"container {name!r} has ended: its process {pid} is gone; start it again")
        raise AgentError(f"container {name!r} shares a control group with the host: its processes cannot be told apart")
    host, shared = bool(container.get("host_network")), bool(container.get("shared_network"))
    return Target(name, container["id"], cgroup, host, shared, proc=proc)


def _is_ending(proc: Path, pid: int) -> bool:
    try:
        text = (proc / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return bool(int(text.rpartition(")")[2].split()[6]) & _EXITING)


def own_cgroup(proc: Path = Path("/proc")) -> Cgroup | None:
    """Return the agent's control group, None if it has none of its own."""
    try:
        return cgroup_of(proc, os.getpid(), Path(HOST_CGROUPS))
    except (OSError, ValueError):
        return None
