"""The interface of all injectors. A session holds the faults of one container, and attaches tracers to the container's threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chaosorca.agent import timeouts
from chaosorca.agent.histogram import Histogram
from chaosorca.agent.linux import proc as procfs
from chaosorca.model.fault import Fault


@dataclass(frozen=True)
class Calls:
    """Calls of one faulted system call with the same outcome, as the program experienced them.

    Attributes:
        key: the key of the fault, as passed to `Session.add`.
        syscall: the name of the system call.
        error: the errno that the calls returned; empty if they returned no error.
        effects: what was injected; empty if nothing was.
        replaced: whether the calls never entered the kernel. If so, the kernel has neither counted nor timed the calls.
        timed: whether `durations` covers the whole calls, from entry to return. If so, the kernel has not timed the calls.
        returned: whether the calls returned. A thread may also die in its call.
        count: the number of calls.
        durations: the histogram of the calls' durations.
    """

    key: int
    syscall: str
    error: str
    effects: tuple[str, ...]
    replaced: bool
    timed: bool
    returned: bool
    count: int
    durations: Histogram


OnCalls = Callable[[Calls], None]

_RESTARTS = 5


class Restarts:
    """Counts replaced tracers, and detects a loop of replacements."""

    def __init__(self) -> None:
        self.total = 0
        self._latest: deque[float] = deque(maxlen=_RESTARTS)

    def note(self, now: float, error: str = "") -> str | None:
        """Count one replacement. If there were too many replacements recently, return the reason to give up; otherwise return None.

        Arguments:
            now: the time of the monotonic clock, in seconds.
            error: the last error of the replaced tracer.
        """
        self.total += 1
        if len(self._latest) == _RESTARTS and now - self._latest[0] < timeouts.RESTART_LOOP_WITHIN:
            within = f"{timeouts.RESTART_LOOP_WITHIN:g} s"
            return f"its tracer ended {_RESTARTS + 1} times in {within}" + (f" ({error})" if error else "")
        self._latest.append(now)
        return None


def traced_by(proc: Path, tid: int, tracer: int) -> str:
    """Describe which other process traces a thread. This is the reason why the session cannot attach to the thread."""
    return f"thread {tid} is being traced by process {tracer} ({procfs.command_name(proc, tracer)})"


class Session(Protocol):
    """One injector, attached to one container."""

    injector: str
    timing: str
    """Which calls the tracer times in place of the kernel. `by call`: the tracer times every call of a delayed system call.
    `by thread`: the tracer times the calls of the threads that it marks."""

    restarts: Restarts
    """The count of replaced tracers."""

    def add(self, key: int, fault: Fault, seconds: float, seed: int) -> None:
        """Add a fault.

        Arguments:
            key: identifies the fault in later calls.
            fault: the fault.
            seconds: the time after which the fault ends by itself, even if the agent hangs.
            seed: the seed of the fault's random decisions.

        Raises:
            AgentError: the injector cannot inject the fault.
        """

    def remove(self, key: int) -> None:
        """End a fault. Replaced calls finish first. When the method returns, all calls of the fault have been reported."""

    def attach(self, pids: Collection[int], within: float) -> dict[int, str]:
        """Attach to processes, with all of their threads and their later children.

        Arguments:
            pids: the processes.
            within: the timeout in seconds.

        Returns:
            the processes that were not attached in time, each with the reason. Processes that have ended are left out.
        """

    def is_attached(self, pid: int) -> bool:
        """Return whether this session traces a process."""

    def ended(self) -> dict[int, str]:
        """Return the faults that have ended by themselves, each with the reason."""

    def supervise(self, pids: Collection[int]) -> str | None:
        """Replace each tracer that has ended, is stopped or hangs.

        Arguments:
            pids: the container's processes.

        Returns:
            the reason to give up if tracers are replaced too often; None otherwise.
        """

    def seen(self) -> dict[str, int]:
        """Return how often traced threads have made each system call; empty if the injector does not see all calls."""

    def probed(self) -> dict[str, int] | None:
        """Return how many calls of each faulted system call have passed a uprobe; None if the injector uses no uprobes."""

    def warnings(self) -> list[str]:
        """Return all warnings about calls that are not hit or that are missing from the figures."""

    def final_warnings(self) -> list[str]:
        """Return the warnings about calls that are missing from the figures. The list is complete once the session has stopped."""

    def stop(self) -> None:
        """Detach from all threads. Idempotent."""
