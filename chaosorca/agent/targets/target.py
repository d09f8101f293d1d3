"""A target: the agent's view of a container and of its current processes."""

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
    """A container, as the agent sees it. The container's control group contains all of its processes."""

    name: str
    id: str
    cgroup: Cgroup
    host_network: bool = False
    shared_network: bool = False
    warnings: list[str] = field(default_factory=list)
    proc: Path = Path("/proc")

    def pids(self) -> list[int]:
        """Return the container's current processes; an empty list while the container is down.

        A process of the container runtime that is about to become a `docker exec` process is left out.
        """
        return list(self._pids())

    def new_pids(self, seen: Collection[int]) -> Iterator[int]:
        """Yield the container's processes that are not in `seen`. The method is cheap enough for polling."""
        return (pid for pid in self.cgroup.pids() if pid not in seen and not _is_runtime(self.proc, pid))

    def ask_one(self, question: Callable[[int], _Answer]) -> _Answer:
        """Ask a question to which all processes of the container give the same answer.

        Arguments:
            question: takes a process id. If that process ends meanwhile, the next process is asked.

        Raises:
            ProcessLookupError: the container is down.
            PermissionError: the kernel denies the question for every process.
        """
        refused: PermissionError | None = None
        for pid in self._pids():
            try:
                return question(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
            except PermissionError as error:  # also raised for an exiting process that has released its memory
                refused = error
        raise refused or ProcessLookupError(f"container {self.name!r} has no process")

    def _pids(self) -> Iterator[int]:
        return (pid for pid in self.cgroup.pids() if not _is_runtime(self.proc, pid))


def _is_runtime(proc: Path, pid: int) -> bool:
    return procfs.command_name(proc, pid).startswith("runc:[")


def find_target(container: dict[str, Any], proc: Path = Path("/proc")) -> Target:
    """Find a container by its first process.

    Arguments:
        container: its `name`, its full `id`, and its first process's `pid` in the host's pid namespace. `host_network` and
            `shared_network` say whether the container uses the network of the host or of another container.
        proc: the proc file system.

    Raises:
        AgentError: the process does not exist, or its control group is not the container's own.
    """
    name, pid = container["name"], int(container["pid"])
    cgroup: Cgroup | None = None
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        cgroup = cgroup_of(proc, pid, Path(HOST_CGROUPS), container["id"])
    if cgroup is None:
        # With cgroup version 1, an ending process appears in the host's control groups.
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
    """Return the agent's control group; None if the agent has none of its own."""
    try:
        return cgroup_of(proc, os.getpid(), Path(HOST_CGROUPS))
    except (OSError, ValueError):
        return None
