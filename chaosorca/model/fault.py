"""A fault: which system calls of a container are tampered with, how, on which calls, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chaosorca.model.duration import format_duration, parse_duration
from chaosorca.model.errno import check_errno
from chaosorca.model.errors import InvalidArgument
from chaosorca.model.syscalls import check_syscall
from chaosorca.model.when import check_when

INJECTORS = ("auto", "strace")


@dataclass(frozen=True)
class Fault:
    """A fault whose every part has been checked; delays and the duration are in microseconds."""

    syscalls: tuple[str, ...]
    error: str | None = None
    delay_enter: int | None = None
    delay_exit: int | None = None
    when: str | None = None
    duration: int = 600_000_000

    @property
    def effects(self) -> tuple[str, ...]:
        """The names of the effects, in the order in which a call meets them."""
        return tuple(name for name in ("delay_enter", "error", "delay_exit") if getattr(self, name) is not None)

    @property
    def text(self) -> str:
        """The fault in one line, as in `openat,read:error=EACCES:delay_enter=100ms:when=2+`; equal faults have equal texts."""
        parts = [",".join(self.syscalls)]
        if self.error:
            parts.append(f"error={self.error}")
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
) -> Fault:
    """Check a fault as a user wrote it, before anything starts.

    Arguments:
        arch: the Docker host's architecture, `x86_64` or `aarch64`.
        syscall: one system call, or several separated by commas.
        error: the name of an errno.
        delay_enter, delay_exit: how long a call is held before and after it, with a unit.
        when: strace's expression (see `model.when`).
        duration: how long the fault lasts, with a unit.

    Raises:
        InvalidArgument: a part that does not exist, or no effect at all.
    """
    fault = Fault(
        syscalls=_syscalls(syscall, arch),
        error=check_errno(error) if error not in (None, "") else None,
        delay_enter=parse_duration(delay_enter, "delay_enter") if delay_enter is not None else None,
        delay_exit=parse_duration(delay_exit, "delay_exit") if delay_exit is not None else None,
        when=check_when(str(when)) if when is not None else None,
        duration=parse_duration(duration, "duration"),
    )
    if not fault.effects:
        raise InvalidArgument(f"the fault on {','.join(fault.syscalls)!r} has no effect: give error, delay_enter or delay_exit")
    return fault


def _syscalls(syscall: object, arch: str) -> tuple[str, ...]:
    names = [name.strip() for name in syscall.split(",")] if isinstance(syscall, str) else []
    if not names or not all(names):
        raise InvalidArgument(f"syscall {syscall!r} names no system call: give one, or several as in 'openat,read'")
    for name in names:
        if name.startswith("%") or "*" in name:
            raise InvalidArgument(f"syscall {name!r} is a class or family, which is not supported yet: name the system calls")
    return tuple(dict.fromkeys(check_syscall(name, arch) for name in names))
