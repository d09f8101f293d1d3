"""A fault: which system calls of a container are tampered with, how, on which calls, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chaosorca.model.abort import parse_abort_when
from chaosorca.model.duration import format_duration, parse_duration
from chaosorca.model.errno import check_errno
from chaosorca.model.errors import InvalidArgument
from chaosorca.model.signals import check_signal
from chaosorca.model.syscalls import expand_syscalls
from chaosorca.model.values import as_int
from chaosorca.model.when import check_when

INJECTORS = ("auto", "strace")
EFFECTS = ("delay_enter", "error", "retval", "signal", "delay_exit")
"""What a fault does to a call, in the order in which the call meets it."""


@dataclass(frozen=True)
class Fault:
    """A fault whose every part has been checked; delays and the duration are in microseconds."""

    syscalls: tuple[str, ...]
    error: str | None = None
    retval: int | None = None
    signal: str | None = None
    delay_enter: int | None = None
    delay_exit: int | None = None
    when: str | None = None
    duration: int = 600_000_000
    placebo: bool = False
    abort_when: str | None = None

    @property
    def effects(self) -> tuple[str, ...]:
        """The names of the effects, in the order in which a call meets them. A placebo has those that it stands for."""
        return tuple(name for name in EFFECTS if getattr(self, name) is not None)

    @property
    def text(self) -> str:
        """The fault in one line, as in `openat,read:error=EACCES:delay_enter=100ms:when=2+`; equal faults have equal texts."""
        parts = (["placebo"] if self.placebo else []) + [",".join(self.syscalls)]
        if self.error:
            parts.append(f"error={self.error}")
        if self.retval is not None:
            parts.append(f"retval={self.retval}")
        if self.signal:
            parts.append(f"signal={self.signal}")
        if self.delay_enter:
            parts.append(f"delay_enter={format_duration(self.delay_enter)}")
        if self.delay_exit:
            parts.append(f"delay_exit={format_duration(self.delay_exit)}")
        if self.when:
            parts.append(f"when={self.when}")
        return ":".join(parts)

    def to_json(self) -> dict[str, Any]:
        """The fault as the agent is told it."""
        return {**self.__dict__, "syscalls": list(self.syscalls)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Fault:
        """The fault from what `to_json` gave."""
        return cls(**{**data, "syscalls": tuple(data["syscalls"])})


def parse_fault(
    arch: str,
    syscall: object,
    error: Any = None,
    delay_enter: object = None,
    delay_exit: object = None,
    when: object = None,
    duration: object = "10m",
    retval: object = None,
    signal: object = None,
    placebo: bool = False,
    abort_when: object = None,
) -> Fault:
    """Check a fault as a user wrote it, before anything starts.

    Arguments:
        arch: the Docker host's architecture, `x86_64` or `aarch64`.
        syscall: system calls, families (`open*`) and classes (`%file`), separated by commas.
        error: the name of an errno.
        retval: a forged result, from 0 on; the call is not made.
        signal: the name of a signal that the thread gets as it enters the call.
        delay_enter, delay_exit: how long a call is held before and after it, with a unit.
        when: strace's expression (see `model.when`).
        duration: how long the fault lasts, with a unit.
        placebo: attach as the fault would, and inject nothing.
        abort_when: the condition under which it ends by itself (see `model.abort`).

    Raises:
        InvalidArgument: a part that does not exist, or no effect at all.
    """
    fault = Fault(
        syscalls=expand_syscalls(syscall, arch),
        error=check_errno(error) if error not in (None, "") else None,
        retval=as_int(retval, "retval", 0, 2**63 - 1) if retval is not None else None,
        signal=check_signal(signal) if signal is not None else None,
        delay_enter=parse_duration(delay_enter, "delay_enter") if delay_enter is not None else None,
        delay_exit=parse_duration(delay_exit, "delay_exit") if delay_exit is not None else None,
        when=check_when(str(when)) if when is not None else None,
        duration=parse_duration(duration, "duration"),
        placebo=placebo,
        abort_when=parse_abort_when(abort_when).text if abort_when is not None else None,
    )
    if not fault.effects:
        raise InvalidArgument(f"the fault on {','.join(fault.syscalls)!r} has no effect: give one of {', '.join(EFFECTS)}")
    if fault.error is not None and fault.retval is not None:
        raise InvalidArgument(f"a call cannot both fail with {fault.error} and return {fault.retval}: give either error or retval")
    return fault
