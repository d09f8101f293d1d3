"""Encodes a fault as the words of a tracer's command `add` (native/rule.h)."""

from __future__ import annotations

from chaosorca.model.arguments import FileArgument, file_arguments
from chaosorca.model.errno import errno_number
from chaosorca.model.fault import Fault
from chaosorca.model.signals import signal_number
from chaosorca.model.when import when_bounds


def rule_words(key: int, slot: int, fault: Fault, numbers: dict[str, int], milliseconds: int) -> str:
    """Return the words of a fault, separated by spaces.

    Arguments:
        key: the rule's id.
        slot: the index of the rule's state in the shared memory.
        fault: the fault.
        numbers: the numbers of system calls by name.
        milliseconds: the time after which the tracer ends the rule by itself.
    """
    calls = ",".join("/".join([str(numbers[name]), *map(_argument, _arguments(fault, name))]) for name in fault.syscalls)
    words = [str(key), f"slot={slot}", f"deadline_ms={milliseconds}", f"calls={calls}"]
    if fault.error:
        words.append(f"error={errno_number(fault.error)}")
    if fault.retval is not None:
        words.append(f"retval={fault.retval}")
    if fault.signal:
        words.append(f"signal={signal_number(fault.signal)}")
    if fault.delay_enter:
        words.append(f"enter_ns={fault.delay_enter * 1000}")
    if fault.delay_exit:
        words.append(f"exit_ns={fault.delay_exit * 1000}")
    first, last, step = when_bounds(fault.when)
    words += [f"first={first}", *([f"last={last}"] if last else []), f"step={step}"]
    if threshold := threshold_of(fault):
        words.append(f"threshold={threshold}")
    if fault.max_faults:
        words.append(f"budget={fault.max_faults}")
    if fault.path:
        words.append(f"path={fault.path.encode().hex()}")
    if fault.process:
        words.append(f"process={fault.process.encode().hex()}")
    return " ".join([*words, *(["placebo=1"] if fault.placebo else [])])


def threshold_of(fault: Fault) -> int | None:
    """Return the threshold of a fault; None if the fault hits every call.

    A call is hit if the random 64-bit number drawn for the call is below the threshold.
    """
    return max(1, int(fault.probability * 2**64)) if fault.probability < 1 else None


def _arguments(fault: Fault, syscall: str) -> tuple[FileArgument, ...]:
    return file_arguments(syscall) if fault.path else ()


def _argument(argument: FileArgument) -> str:
    kind = "f" if not argument.is_path else "p" if argument.follows else "l"
    directory = "" if argument.directory is None else f"@{argument.directory}"
    return f"{kind}{argument.index}{directory}" + ("" if argument.flags is None else f"!{argument.flags}")
