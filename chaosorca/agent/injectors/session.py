"""What all injectors have in common: a session holds the faults of one container, and attaches tracers to its threads."""

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
    """Calls of a faulted system call that ended alike, as the program experienced them.

    Attributes:
        key: the fault, by the key that the session was given.
        syscall: its name.
        error: the errno that they returned, empty for none.
        effects: what was injected; empty for calls that were let pass.
        replaced: they never entered the kernel, which has therefore neither counted nor timed them.
        timed: `durations` is from entry to return, and the kernel has not timed them.
        returned: they returned; a thread may also die in its call.
        count: how many.
        durations: how long each took.
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
    """Counts tracers that were replaced, and recognises a loop of them."""

    def __init__(self) -> None:
        self.total = 0
        self._latest: deque[float] = deque(maxlen=_RESTARTS)

    def note(self, now: float, error: str = "") -> str | None:
        """Count one more; return the reason to give up if there were too many lately.

        Arguments:
            now: the monotonic clock, in seconds.
            error: the tracer's last error.
        """
        self.total += 1
        if len(self._latest) == _RESTARTS and now - self._latest[0] < timeouts.RESTART_LOOP_WITHIN:
            within = f"{timeouts.RESTART_LOOP_WITHIN:g} s"
            return f"its tracer ended {_RESTARTS + 1} times in {within}" + (f" ({error})" if error else "")
        self._latest.append(now)
        return None


def traced_by(proc: Path, tid: int, tracer: int) -> str:
    """Return why a thread that another process traces is not attached."""
    return f"thread {tid} is being traced by process {tracer} ({procfs.command_name(proc, tracer)})"


class Session(Protocol):
    """One injector that is attached to one container."""

    injector: str
    timing: str
    """How the kernel learns which calls the tracer times: `by call` (every call of a delayed system call), or `by thread`."""

    restarts: Restarts
    """The tracers that were replaced."""

    def add(self, key: int, fault: Fault, seconds: float, seed: int) -> None:
        """Add a fault.

        Arguments:
            key: identifies the fault from now on.
            fault: the fault.
            seconds: it ends by itself after this time, even if the agent hangs.
            seed: the seed of its random decisions.

        Raises:
            AgentError: the injector cannot inject it.
        """

    def remove(self, key: int) -> None:
        """End a fault. Calls that it has replaced finish first, and all its calls are reported when this returns."""

    def attach(self, pids: Collection[int], within: float) -> dict[int, str]:
        """Trace processes, all of their threads and their later children.

        Returns:
            the reason for each process that was not attached within so many seconds; processes that have ended are left out.
        """

    def is_attached(self, pid: int) -> bool:
        """Return whether this session traces a process."""

    def ended(self) -> dict[int, str]:
        """Return the faults that have ended by themselves, with the reason."""

    def supervise(self, pids: Collection[int]) -> str | None:
        """Replace tracers that have ended, are stopped or hang; return a reason to give up if that happens again and again.

        Arguments:
            pids: the container's processes.
        """

    def seen(self) -> dict[str, int]:
        """Return the system calls of any kind that traced threads have made; empty if the injector does not see them."""

    def probed(self) -> dict[str, int] | None:
        """Return the calls of faulted system calls that passed a uprobe; None if the injector sees every call anyway."""

    def warnings(self) -> list[str]:
        """Return what a user should know of the processes."""

    def final_warnings(self) -> list[str]:
        """Return what is missing from the figures; complete once the session has stopped."""

    def stop(self) -> None:
        """Detach from all threads. Idempotent."""
