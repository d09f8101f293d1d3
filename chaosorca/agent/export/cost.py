"""Measures what the agent itself costs."""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass
from pathlib import Path

from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.linux.cgroups import Cgroup


@dataclass(frozen=True)
class Cost:
    """The processor time used since the agent's start, in seconds, and the memory in use, in bytes."""

    cpu_seconds: float
    resident_bytes: float


def own_cost(own: Cgroup | None, pid: int, proc: Path = Path("/proc")) -> Cost:
    """Return the total cost of the agent, its tracers, and the commands that pass requests to the agent.

    Arguments:
        own: the agent's control group, None if it has none of its own.
        pid: the agent's process. Without a control group, only this process is measured.
        proc: the proc file system.
    """
    pids = own.pids() if own else [pid]
    return Cost(_cpu_seconds(own), sum(procfs.resident_bytes(proc, one) for one in pids))


def _cpu_seconds(own: Cgroup | None) -> float:
    if own:
        with contextlib.suppress(OSError):  # this host's control groups may not count processor time
            return own.cpu_seconds()
    usages = [resource.getrusage(scope) for scope in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
