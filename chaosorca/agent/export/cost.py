"""What the agent itself costs."""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass
from pathlib import Path

from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.linux.cgroups import Cgroup


@dataclass(frozen=True)
class Cost:
    """Seconds of processor time since its start, and bytes of memory in use."""

    cpu_seconds: float
    resident_bytes: float


def own_cost(own: Cgroup | None, pid: int, proc: Path = Path("/proc")) -> Cost:
    """What all of the agent's processes cost: itself, its tracers, and those that bring it requests.

    Arguments:
        own: its control group, if it has one.
        pid: its process, which stands for all where it has none.
        proc: the proc file system.
    """
    pids = own.pids() if own else [pid]
    return Cost(_cpu_seconds(own), sum(procfs.resident_bytes(proc, one) for one in pids))


def _cpu_seconds(own: Cgroup | None) -> float:
    if own:
        with contextlib.suppress(OSError):  # a host whose control groups do not count that
            return own.cpu_seconds()
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
