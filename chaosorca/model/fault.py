"""A fault says which system calls of a container are hit, with which effects, and for how long."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from chaosorca.model.abort import parse_abort_when
from chaosorca.model.arguments import names_a_file
from chaosorca.model.duration import format_duration, parse_duration
from chaosorca.model.errno import check_errno
from chaosorca.model.errors import InvalidArgument
from chaosorca.model.nearest import nearest
from chaosorca.model.signals import STOPPING, check_signal
from chaosorca.model.syscall_table import expand_syscalls, split_syscalls
from chaosorca.model.values import as_bool, as_int, as_number
from chaosorca.model.when import check_when

EFFECTS = ("delay_enter", "error", "retval", "signal", "delay_exit")
"""What a fault can do to a call, in the order in which the effects happen."""

NEVER_RETURN = ("exit", "exit_group", "rt_sigreturn")
"""System calls that never return to their caller. Their result can be neither forged nor delayed."""

_RESULTS = ("error", "retval", "delay_exit")
_DELAYS = ("delay_enter", "delay_exit")
_RAREST = 1e-9
_LONGEST_TEXT = 4095
_UNESCAPED = " !\"#$&'()*+,-./;<=>?@[\\]^`{|}~"


@dataclass(frozen=True)
class Fault:
    """A validated fault. Delays and the duration are in microseconds."""

    syscalls: tuple[str, ...]
    error: str | None = None
    retval: int | None = None
    signal: str | None = None
    delay_enter: int | None = None
    delay_exit: int | None = None
    when: str | None = None
    probability: float = 1.0
    max_faults: int = 0
    path: str | None = None
    process: str | None = None
    duration: int = 600_000_000
    placebo: bool = False
    abort_when: str | None = None

    @property
    def effects(self) -> tuple[str, ...]:
        """The names of the effects, in the order of `EFFECTS`. A placebo has the effects of the fault that it imitates."""
        return tuple(name for name in EFFECTS if getattr(self, name) is not None)

    @property
    def text(self) -> str:
        """The canonical text of the fault, as in `openat,read:error=EACCES:delay_enter=100ms:when=2+`.

        The duration and `abort_when` are not part of the text. `read_fault` parses the text.
        """
        parts = (["placebo"] if self.placebo else []) + [",".join(self.syscalls)]
        for name, write in _WRITTEN.items():
            value = getattr(self, name)
            if value != getattr(Fault, name):
                parts.append(f"{name}={write(value)}")
        return ":".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return the fault as the agent receives it."""
        return {**self.__dict__, "syscalls": list(self.syscalls)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Fault:
        """Rebuild the fault from the output of `to_json`."""
        return cls(**{**data, "syscalls": tuple(data["syscalls"])})


def _escape(text: str) -> str:
    return quote(text, safe=_UNESCAPED)


def _unescape(text: str, what: str) -> str:
    if re.search("%(?![0-9A-Fa-f]{2})", text):
        raise InvalidArgument(f"{what} {text!r} has a percent sign without two hexadecimal digits after it: write it as %25")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidArgument(f"{what} {text!r} does not decode to UTF-8: give UTF-8 text") from None


_WRITTEN: dict[str, Callable[[Any], str]] = {
    "error": str,
    "retval": str,
    "signal": str,
    "delay_enter": format_duration,
    "delay_exit": format_duration,
    "when": str,
    "probability": repr,
    "max_faults": str,
    "path": _escape,
    "process": _escape,
}
"""The parts of a fault's text in their order. Each part is mapped to the function that formats its value."""


def read_fault(text: str, arch: str) -> Fault:
    """Parse a fault's text, which has the format of `Fault.text`.

    In `path` and `process`, a colon is written as `%3A` and a percent sign as `%25`. The fault lasts for the default duration, or
    for its longest delay if that delay is longer.

    Raises:
        InvalidArgument: a part is invalid. The message is about the first invalid part.
    """
    if not isinstance(text, str):
        raise InvalidArgument(f"fault {text!r} is not text: write it as in 'openat:error=EACCES'")
    placebo, rest = text.startswith("placebo:"), text.removeprefix("placebo:")
    syscall, *parts = rest.split(":")
    expand_syscalls(syscall, arch)  # reports an invalid syscall before any later part
    arguments: dict[str, Any] = {}
    for part in parts:
        name, _, value = part.partition("=")
        problem = _part_problem(name, value, arguments)
        if problem:
            raise InvalidArgument(f"fault {text!r} {problem}")
        arguments[name] = _unescape(value, name) if name in ("path", "process") else value
    delays = [parse_duration(arguments[name], name) for name in _DELAYS if name in arguments]
    duration = format_duration(max([Fault.duration, *delays]))
    return parse_fault(arch, syscall, placebo=placebo, duration=duration, **arguments)


def _part_problem(name: str, value: str, before: dict[str, Any]) -> str | None:
    """Return what is wrong with a part of a fault's text; None if it is valid. `before` has the values of the earlier parts."""
    if not name and not value:
        return "has an empty part: write one colon between two parts, and none at the end"
    if name in ("duration", "abort_when"):
        return f"contains {name}, which is not part of a fault's text: give it as a separate argument"
    if name == "placebo":
        return "has placebo in the middle: write it at the beginning, as in 'placebo:openat:error=EACCES'"
    if name not in _WRITTEN:
        colon = "; write a colon in path or process as %3A" if before.keys() & {"path", "process"} else ""
        return f"has an unknown part {name!r}{nearest(name, _WRITTEN)} (there are {', '.join(_WRITTEN)}{colon})"
    if name in before:
        return f"gives {name} twice: remove one of them"
    return None if value else f"gives no value for {name}: write it as in '{name}=…', or leave it out"


def parse_fault(
    arch: str,
    syscall: object,
    error: Any = None,
    retval: object = None,
    signal: object = None,
    delay_enter: object = None,
    delay_exit: object = None,
    when: object = None,
    probability: object = 1.0,
    max_faults: object = 0,
    path: object = None,
    process: object = None,
    duration: object = "10m",
    placebo: object = False,
    abort_when: object = None,
) -> Fault:
    """Validate a fault as a user wrote it.

    Some faults are impossible on some system calls. A call that never returns has no result to forge. A call that names no file has
    no path to match. If such a system call is given by its own name, the fault is refused. If a given family or class
    contains such a system call, the system call is left out.

    Arguments:
        arch: the Docker host's architecture, `x86_64` or `aarch64`.
        syscall: system calls, families (`open*`) and classes (`%file`), separated by commas.
        error: the name of an errno.
        retval: a forged result of at least 0. (A negative result would be an error.) The call itself is skipped.
        signal: the name of a signal that the thread receives on entry to the call.
        delay_enter, delay_exit: how long to hold a call at its entry and at its exit, with a unit. The fault's end releases held
            calls, so neither delay may be longer than `duration`.
        when: strace's expression (see `model.when`).
        probability: the probability that a call selected by `when` is hit, from 1e-9 to 1.
        max_faults: the maximum number of calls that are hit in the whole container; 0 for no limit.
        path: an absolute path inside the container. Only calls on this file are hit.
        process: a part of a command line. Only processes whose command line contains this text are hit.
        duration: how long the fault lasts, with a unit.
        placebo: whether to attach the fault to the container without injecting anything.
        abort_when: the condition that ends the fault early (see `model.abort`).

    Raises:
        InvalidArgument: a part is invalid, there is no effect, or two parts exclude each other.
    """
    fault = Fault(
        syscalls=expand_syscalls(syscall, arch),
        error=check_errno(error) if error not in (None, "") else None,
        retval=_check_retval(retval) if retval is not None else None,
        signal=check_signal(signal) if signal is not None else None,
        delay_enter=parse_duration(delay_enter, "delay_enter") if delay_enter is not None else None,
        delay_exit=parse_duration(delay_exit, "delay_exit") if delay_exit is not None else None,
        when=check_when(str(when)) if when is not None else None,
        probability=_check_probability(probability),
        max_faults=as_int(max_faults, "max_faults", 0, 2**31),
        path=_check_path(path) if path is not None else None,
        process=_check_text(process, "process") if process is not None else None,
        duration=parse_duration(duration, "duration"),
        placebo=as_bool(placebo, "placebo"),
        abort_when=parse_abort_when(abort_when).text if abort_when is not None else None,
    )
    if not fault.effects:
        raise InvalidArgument(f"the fault on {','.join(fault.syscalls)!r} has no effect: give one of {', '.join(EFFECTS)}")
    if fault.error is not None and fault.retval is not None:
        raise InvalidArgument(f"a call cannot both fail with {fault.error} and return {fault.retval}: give either error or retval")
    results = [name for name in _RESULTS if getattr(fault, name) is not None]
    if fault.signal == "SIGKILL" and results:
        raise InvalidArgument(f"SIGKILL ends the process during the call, so {results[0]} would have no effect: leave it out")
    if fault.signal in STOPPING:
        raise InvalidArgument(
            f"signal {fault.signal!r} would leave the process stopped after the fault: hold its calls with delay_enter instead"
        )
    for name in _DELAYS:
        delay = getattr(fault, name) or 0
        if delay > fault.duration:
            raise InvalidArgument(
                f"{name} {format_duration(delay)} is longer than the fault's duration {format_duration(fault.duration)}, and the "
                "fault's end releases held calls: give a shorter delay or a longer duration"
            )
    return Fault(**{**fault.__dict__, "syscalls": _applicable(fault, syscall, arch, results)})


def _applicable(fault: Fault, syscall: object, arch: str, results: list[str]) -> tuple[str, ...]:
    named = {part for part in split_syscalls(syscall) if part in fault.syscalls}
    reasons: dict[str, str] = {}
    for name in fault.syscalls:
        if results and name in NEVER_RETURN:
            reasons[name] = f"system call {name!r} never returns, so {results[0]} cannot act on it"
        elif fault.path is not None and not names_a_file(name):
            reasons[name] = f"system call {name!r} names no file, so it cannot be limited to path {fault.path!r}"
    left = tuple(name for name in fault.syscalls if name not in reasons)
    refused = next((name for name in fault.syscalls if name in reasons and (name in named or not left)), None)
    if refused:
        raise InvalidArgument(f"{reasons[refused]}: choose another system call, or leave it out")
    return left


def _check_retval(value: object) -> int:
    try:
        return as_int(value, "retval", 0, 2**63 - 1)
    except InvalidArgument as refused:
        if str(value).strip().startswith("-"):
            raise InvalidArgument(f"{refused}: give an error by its name, as in error='EACCES'") from None
        raise


def _check_probability(value: object) -> float:
    number = as_number(value, "probability", 0, 1)
    if number == 0:
        raise InvalidArgument(f"probability {value!r} means never: give a number above 0, up to 1")
    if number < _RAREST:
        raise InvalidArgument(f"probability {value!r} is less than one call in a billion: give at least {_RAREST}")
    return number


def _check_path(value: object) -> str:
    path = _check_text(value, "path")
    if not path.startswith("/"):
        raise InvalidArgument(f"path {value!r} is not absolute: give the path inside the container, starting with /")
    return path


def _check_text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InvalidArgument(f"{what} {value!r} is not text to match: give some text, or leave it out")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} {value!r} cannot be encoded in UTF-8: give UTF-8 text") from None
    if size > _LONGEST_TEXT:
        raise InvalidArgument(f"{what} {value[:40]!r}… is longer than {_LONGEST_TEXT} bytes: give a shorter one")
    return value
