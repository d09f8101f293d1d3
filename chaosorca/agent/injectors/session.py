"""What all injectors have in common: a session holds the faults of one container, by tracers of its threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chaosorca.agent.histogram import Histogram
from chaosorca.agent.linux import proc as procfs
from chaosorca.model.fault import Fault


@dataclass(frozen=True)
class Calls:
    """Calls of a faulted system call that have ended alike, as the program saw them.

    Attributes:
        key: the fault, as the session knows it.
        syscall: its name.
        error: the errno that they returned, empty for none.
        effects: what was done to them; empty where they were let pass.
        replaced: they never entered the kernel, which has therefore neither counted nor timed them.
        timed: `durations` tells the time from entry to return, which the kernel leaves to the tracer to tell.
        returned: whether they returned; a thread may die in its call.
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

_RESTARTS, _RESTARTS_WITHIN = 5, 10.0


class Restarts:
    """Counts tracers that had to be replaced, and says when that has become a loop."""

    def __init__(self) -> None:
        self.total = 0
        self._latest: deque[float] = deque(maxlen=_RESTARTS)

    def note(self, now: float, said: str = "") -> str | None:
        """Count one more at a time in seconds; return a reason to give up if there were too many lately."""
        self.total += 1
        if len(self._latest) == _RESTARTS and now - self._latest[0] < _RESTARTS_WITHIN:
            return f"its tracer ended {_RESTARTS + 1} times in {_RESTARTS_WITHIN:g} s" + (f" ({said})" if said else "")
        self._latest.append(now)
        return None


def traced_by(proc: Path, tid: int, tracer: int) -> str:
    """Why a thread that somebody else traces is not attached."""
    return f"thread {tid} is being traced by process {tracer} ({procfs.command_name(proc, tracer)})"


class Session(Protocol):
    """The faults of one container, and its threads' tracers."""

    injector: str
    timing: str
    """Who tells the kernel which calls the tracer times: `by call` (all of a delayed system call), or `by thread`."""

    restarts: Restarts
    """Tracers that had to be replaced."""

    def add(self, key: int, fault: Fault, seconds: float, seed: int) -> None:
        """Take a fault, which ends by itself after so many seconds whatever else happens; `AgentError` if it cannot."""

    def remove(self, key: int) -> None:
        """End a fault; the calls that it has replaced finish first. Its calls have all been told when this returns."""

    def attach(self, pids: Collection[int], within: float) -> dict[int, str]:
        """Trace processes, all of their threads and their later children.

        Returns:
            for each process that was not attached within so many seconds, the reason; those that have ended are not among them.
        """

    def is_attached(self, pid: int) -> bool:
        """Whether a process is traced by this session."""

    def ended(self) -> dict[int, str]:
        """The faults that have ended by themselves, with the reason."""

    def supervise(self, pids: Collection[int]) -> str | None:
        """Replace tracers that have died, were killed or do not answer. Returns the reason once that is given up."""

    def seen(self) -> dict[str, int]:
        """The system calls of any kind that threads have made while they were traced, where the injector sees them."""

    def probed(self) -> dict[str, int] | None:
        """The calls of faulted system calls that came by one of the session's probes; None where it sees every call anyway."""

    def warnings(self) -> list[str]:
        """What a user should know of the processes."""

    def untold(self) -> list[str]:
        """What is missing in the figures, for good once it has stopped."""

    def stop(self) -> None:
        """Let go of all threads. Idempotent."""
