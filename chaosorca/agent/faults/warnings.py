"""Warnings about calls that a fault cannot hit, or has not hit."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from chaosorca.agent import timeouts
from chaosorca.agent.faults.injection import Injection
from chaosorca.agent.linux import proc as procfs
from chaosorca.model.fault import Fault
from chaosorca.model.record import Coverage
from chaosorca.model.syscall_table import siblings

_FEW, _SMALL_SHARE = 20, 0.01
"""Up to this number or this share, unprobed calls cause no warning. A probe and the kernel count a call at different times."""


def foreseen(fault: Fault, pids: list[int], calls: Mapping[str, int], proc: Path) -> list[str]:
    """Return the warnings that are known before a fault starts.

    Arguments:
        fault: the fault.
        pids: the processes of its target.
        calls: the target's calls that the monitoring has counted, by system call.
        proc: the proc file system.
    """
    return [
        f"process {pid} ({procfs.command_name(proc, pid)}) uses io_uring: its io_uring operations are not system calls "
        "and are not hit"
        for pid in pids
        if procfs.uses_io_uring(proc, pid)
    ] + unmade(fault, calls)


def review(
    injection: Injection, probed: Mapping[str, int] | None, made: Counter[str] | None, calls: Callable[[], Mapping[str, int]]
) -> None:
    """Update the coverage and the warnings of an injection.

    Arguments:
        injection: the injection.
        probed: the calls that the probes have seen, by system call; None if the injector uses no probes.
        made: all calls of the container so far; None if the calls are not needed or not monitored.
        calls: returns the calls that the kernel has counted.
    """
    if probed is not None and made is not None and injection.calls_before is not None:
        injection.coverage = {
            name: Coverage(made[name] - injection.calls_before[name], probed.get(name, 0))
            for name in injection.fault.syscalls
            if made[name] > injection.calls_before[name]
        }
    injection.warn(*injection.session.warnings(), *_never_fired(injection, calls), *_uncovered(injection.coverage))


def unmade(fault: Fault, calls: Mapping[str, int]) -> list[str]:
    """Return a warning if a container makes siblings of the faulted calls, but none of the faulted calls."""
    if any(calls.get(name) for name in fault.syscalls):
        return []
    instead = sorted({name for call in fault.syscalls for name in siblings(call) if calls.get(name)})
    if not instead:
        return []
    return [f"the container has not been seen to call {', '.join(fault.syscalls)}: it calls {', '.join(instead)} instead"]


def _never_fired(injection: Injection, calls: Callable[[], Mapping[str, int]]) -> list[str]:
    if injection.fired or injection.fault.placebo or time.time() - injection.begins < timeouts.FIRST_CALLS_WITHIN:
        return []
    return unmade(injection.fault, injection.session.seen() or calls())


def _uncovered(coverage: Mapping[str, Coverage]) -> list[str]:
    return [
        f"some calls of {name} come from code that cannot have a probe: these calls are not hit"
        for name, calls in coverage.items()
        if calls.made - calls.probed > max(_FEW, calls.made * _SMALL_SHARE)
    ]
