"""One injection: a fault on one target, and its state."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from chaosorca.agent import timeouts
from chaosorca.agent.faults.abort import AbortCheck
from chaosorca.agent.injectors.session import Session
from chaosorca.agent.targets.target import Target
from chaosorca.model.fault import Fault
from chaosorca.model.record import Coverage, FaultRecord, NotAttached


@dataclass
class Backoff:
    """Schedules retries after a failed attach. The exponential backoff begins at a second and ends at a minute.

    The pauses grow because each attempt may interrupt a blocking call of the process.
    """

    next_try: float = 0.0
    pause: float = timeouts.RETRY_ATTACH_AFTER

    def is_due(self) -> bool:
        """Return whether a retry is due. If so, schedule the next one."""
        now = time.monotonic()
        if now < self.next_try:
            return False
        self.next_try = now + self.pause
        self.pause = min(2 * self.pause, timeouts.RETRY_ATTACH_AFTER_MOST)
        return True


@dataclass
class Injection:
    """A fault on one target. The agent keeps ended injections until there are too many.

    Attributes:
        key: the fault's number in its session.
        begins: the start of the fault, in seconds since 1970.
        deadline: the end of the fault's duration, in seconds of the monotonic clock.
        not_attached: the processes that the fault does not reach, each with the reason.
        traced_by_others: the processes in `not_attached` that a foreign tracer traces.
        backoff: the schedule of retries. All faults of a container share the schedule of the first fault.
        fired: the number of injected calls, by system call.
        ended: the end of the fault, in seconds since 1970; None while the fault is active.
        foreseen: the warnings at the start of the fault.
        warnings: the current warnings.
        calls_before: the container's calls before the fault began; None if calls are not monitored.
        coverage: for each faulted system call, the number of calls since the fault began, and how many of them a probe has seen.
    """

    id: str
    run: str
    target: Target
    fault: Fault
    seed: int
    key: int
    session: Session
    begins: float
    deadline: float
    abort: AbortCheck | None = None
    not_attached: dict[int, str] = field(default_factory=dict)
    traced_by_others: set[int] = field(default_factory=set)
    backoff: Backoff = field(default_factory=Backoff)
    fired: Counter[str] = field(default_factory=Counter)
    ended: float | None = None
    reason: str = ""
    foreseen: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    calls_before: Counter[str] | None = None
    coverage: Mapping[str, Coverage] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether the fault has not ended."""
        return self.ended is None

    def warn(self, *warnings: str) -> None:
        """Replace the current warnings. The warnings from the start of the fault stay first."""
        self.warnings = list(dict.fromkeys([*self.foreseen, *warnings]))

    def record(self) -> FaultRecord:
        """Return the record of the injection."""
        return FaultRecord(
            id=self.id,
            run=self.run,
            container=self.target.name,
            container_id=self.target.id,
            text=self.fault.text,
            injector=self.session.injector,
            seed=self.seed,
            syscalls=tuple(self.fault.syscalls),
            effects=tuple(self.fault.effects),
            placebo=self.fault.placebo,
            begins=self.begins,
            ends=self.begins + self.fault.duration / 1e6,
            ended=self.ended,
            reason=self.reason,
            abort_when=self.fault.abort_when,
            injected=dict(self.fired),
            not_attached=tuple(NotAttached(pid, why) for pid, why in sorted(self.not_attached.items())),
            coverage=self.coverage,
            tracer_restarts=self.session.restarts.total,
            warnings=tuple(self.warnings),
        )


def timed_by_call(injections: list[Injection]) -> tuple[str, ...]:
    """Return the system calls for which the tracer times every call."""
    return tuple(
        name
        for injection in injections
        if injection.session.timing == "by call" and delays(injection.fault)
        for name in injection.fault.syscalls
    )


def timed_by_thread(injections: list[Injection]) -> bool:
    """Return whether the tracer times the calls of marked threads."""
    return any(injection.session.timing == "by thread" and delays(injection.fault) for injection in injections)


def delays(fault: Fault) -> bool:
    """Return whether a fault delays calls. Tracepoints do not see this delay."""
    return bool(fault.delay_enter or fault.delay_exit) and not fault.placebo
