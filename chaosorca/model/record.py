"""The record of a fault on one container. The agent reports the record while the fault is active and after the fault's end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from chaosorca.model.times import iso, seconds


@dataclass(frozen=True)
class NotAttached:
    """A process that the fault does not reach, and why."""

    pid: int
    reason: str


@dataclass(frozen=True)
class Coverage:
    """Counts for one system call of a fault since the fault's start: the container's calls, and the calls that were probed."""

    made: int
    probed: int


@dataclass(frozen=True)
class FaultRecord:
    """The record of a fault on one container. All times are in seconds since 1970.

    `ends` is the time at which the fault's duration is over. `ended` is the actual end; None while the fault is active. `injected`
    counts the calls that were hit, by system call.
    """

    id: str
    run: str
    container: str
    container_id: str
    text: str
    injector: str
    seed: int
    syscalls: tuple[str, ...]
    effects: tuple[str, ...]
    placebo: bool
    begins: float
    ends: float
    ended: float | None
    reason: str
    abort_when: str | None
    injected: Mapping[str, int]
    not_attached: tuple[NotAttached, ...]
    coverage: Mapping[str, Coverage]
    tracer_restarts: int
    warnings: tuple[str, ...]

    @property
    def active(self) -> bool:
        """Whether the fault is still active."""
        return self.ended is None

    @property
    def fired(self) -> int:
        """How many calls were hit."""
        return sum(self.injected.values())

    @property
    def state(self) -> str:
        """How often the fault fired, in words."""
        return {0: "never fired", 1: "fired once"}.get(self.fired, f"fired {self.fired} times")

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON, in the format of `status` and `stop_fault`. The key `fault` holds the id."""
        return {
            "fault": self.id,
            "run": self.run,
            "container": self.container,
            "container_id": self.container_id,
            "text": self.text,
            "injector": self.injector,
            "seed": self.seed,
            "syscalls": list(self.syscalls),
            "effects": list(self.effects),
            "placebo": self.placebo,
            "active": self.active,
            "state": self.state,
            "begins": iso(self.begins),
            "ends": iso(self.ends),
            "ended": iso(self.ended) if self.ended is not None else None,
            "reason": self.reason,
            "abort_when": self.abort_when,
            "injected": dict(self.injected),
            "not_attached": [asdict(one) for one in self.not_attached],
            "coverage": {syscall: asdict(calls) for syscall, calls in self.coverage.items()},
            "tracer_restarts": self.tracer_restarts,
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Rebuild the record from the output of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: the data is not a record.
        """
        return cls(
            id=given["fault"],
            run=given["run"],
            container=given["container"],
            container_id=given["container_id"],
            text=given["text"],
            injector=given["injector"],
            seed=given["seed"],
            syscalls=tuple(given["syscalls"]),
            effects=tuple(given["effects"]),
            placebo=given["placebo"],
            begins=seconds(given["begins"]),
            ends=seconds(given["ends"]),
            ended=seconds(given["ended"]) if given["ended"] is not None else None,
            reason=given["reason"],
            abort_when=given["abort_when"],
            injected=dict(given["injected"]),
            not_attached=tuple(NotAttached(one["pid"], one["reason"]) for one in given["not_attached"]),
            coverage={syscall: Coverage(**calls) for syscall, calls in given["coverage"].items()},
            tracer_restarts=given["tracer_restarts"],
            warnings=tuple(given["warnings"]),
        )
