"""Faults by our own tracer (native/tracer.c): some tracers for all faults of a container, each for some of its processes.

The tracers decide and act; this module tells them what to do, takes what they tell, and sees to it that they are well. There are as
many as processors at most, so that processes that are hit at once need not wait for each other's tracer, which would have to be
beside each of them.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from chaosorca.agent.histogram import histogram_of
from chaosorca.agent.injectors.session import Calls, OnCalls, Restarts, traced_by
from chaosorca.agent.injectors.tracer import ENDED, FOREIGN, LOST, PROGRAM, Asked, Tracer
from chaosorca.agent.linux import proc as procfs
from chaosorca.model.arguments import FileArgument, file_arguments
from chaosorca.model.errno import errno_name, errno_number
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import Fault
from chaosorca.model.signals import signal_number
from chaosorca.model.when import when_bounds

_SPENT = 1
_EFFECT_BITS = {1: "delay_enter", 2: "error", 4: "retval", 8: "signal", 16: "delay_exit"}
_REPLACED, _RETURNED = 0x100, 0x200
_SLOT = struct.Struct("=QQQ")
_SLOTS, _NR_MAX = 64, 1024
_SEEN_AT = _SLOTS * _SLOT.size
_STATE_SIZE = _SEEN_AT + 8 * _NR_MAX

_MOST_TRACERS = 8
_ANSWERS_WITHIN = 0.5
_WELL_WITHIN = 2.0
_GRACE = 0.5


def rule_words(key: int, slot: int, fault: Fault, numbers: dict[str, int], milliseconds: int) -> str:
    """The words that tell the tracer of a fault (native/rule.h)."""
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
    """Below which of 2^64 equally likely numbers a call is hit; None for every call."""
    return max(1, int(fault.probability * 2**64)) if fault.probability < 1 else None


def _arguments(fault: Fault, syscall: str) -> tuple[FileArgument, ...]:
    return file_arguments(syscall) if fault.path else ()


def _argument(argument: FileArgument) -> str:
    kind = "f" if not argument.is_path else "p" if argument.follows else "l"
    directory = "" if argument.directory is None else f"@{argument.directory}"
    return f"{kind}{argument.index}{directory}" + ("" if argument.flags is None else f"!{argument.flags}")


@dataclass
class _Rule:
    fault: Fault
    slot: int
    deadline: float


class PtraceSession:
    """All faults of a container, by tracers that stop its threads at each system call; see `session.Session`."""

    injector = "ptrace"
    timing = "by thread"

    def __init__(
        self,
        numbers: dict[str, int],
        on_calls: OnCalls,
        spawner: Executor,
        marks: Callable[[], int | None] = lambda: None,
        proc: Path = Path("/proc"),
        program: str = PROGRAM,
        most_tracers: int = min(os.cpu_count() or 1, _MOST_TRACERS),
    ) -> None:
        """
        Arguments:
            numbers: the numbers of system calls by name.
            on_calls: is told of the calls that were tampered with.
            spawner: has a thread that lives as long as the agent, to start tracers by.
            marks: the id of the kernel's map of threads whose call it is not to time; None while there is none.
            proc: the proc file system.
            program: the tracer's executable.
            most_tracers: how many there are at most.
        """
        self.restarts = Restarts()
        self._numbers = numbers
        self._names = {number: name for name, number in numbers.items()}
        self._on_calls = on_calls
        self._spawner = spawner
        self._marks = marks
        self._proc = proc
        self._program = program
        self._most_tracers = most_tracers
        self._rules: dict[int, _Rule] = {}
        self._ended: dict[int, str] = {}
        self._foreign: set[int] = set()
        self._lost = 0
        self._untold = 0
        self._marked_by: int | None = None
        self._stopped = False
        self._state_fd = os.memfd_create("orca-state", os.MFD_CLOEXEC)
        os.ftruncate(self._state_fd, _STATE_SIZE)
        self._state = mmap.mmap(self._state_fd, _STATE_SIZE)
        self._traced_by: dict[int, Tracer] = {}
        try:
            self._tracers = [self._begin_tracer()]
        except BaseException:
            self._close_state()
            raise

    def add(self, key: int, fault: Fault, seconds: float, seed: int) -> None:
        """See `Session.add`."""
        taken = {rule.slot for rule in self._rules.values()}
        slot = next((slot for slot in range(_SLOTS) if slot not in taken), None)
        if slot is None:
            raise AgentError(f"a container can have {_SLOTS} faults at a time: stop one first")
        _SLOT.pack_into(self._state, slot * _SLOT.size, 0, 0, seed)
        rule = _Rule(fault, slot, time.monotonic() + seconds)
        self._give_marks()
        self._rules[key] = rule
        try:
            for tracer in self._tracers:
                self._give_rule(tracer, key, rule)
        except AgentError:
            self.remove(key)  # from those who have taken it
            raise

    def remove(self, key: int) -> None:
        """See `Session.remove`."""
        if self._rules.pop(key, None) is not None:
            for tracer, asked in [(tracer, tracer.ask(f"remove {key}")) for tracer in self._tracers]:
                tracer.wait_for(asked, _ANSWERS_WITHIN)

    def attach(self, pids: Collection[int], within: float) -> dict[int, str]:
        """See `Session.attach`."""
        end = time.monotonic() + within
        self._traced_by = {pid: tracer for pid, tracer in self._traced_by.items() if procfs.threads(self._proc, pid)}
        asked: dict[int, Asked] = {}
        for pid in pids:
            known = self._traced_by.get(pid)  # it has been asked before, and may still be at it
            tracer = self._traced_by[pid] = known if known in self._tracers else self._least_busy()
            asked[pid] = tracer.ask(f"attach {pid}")
        reasons: dict[int, str] = {}
        for pid, one in asked.items():
            self._traced_by[pid].wait_for(one, end - time.monotonic())
            reason = self._why_not(pid, one)
            if reason:
                reasons[pid] = reason
        return reasons

    def is_attached(self, pid: int) -> bool:
        """See `Session.is_attached`."""
        return procfs.tracer_of(self._proc, pid, pid) in self._own_pids()

    def ended(self) -> dict[int, str]:
        """See `Session.ended`."""
        return {key: why for key, why in self._ended.items() if key in self._rules}

    def supervise(self, pids: Collection[int]) -> str | None:
        """See `Session.supervise`."""
        if self._stopped:
            return None
        self._give_marks()
        for at, tracer in enumerate(self._tracers):
            if tracer.alive() and not self._is_stopped(tracer) and tracer.silent_for() < _WELL_WITHIN:
                tracer.ask("ping")
                continue
            self._end_tracer(tracer)
            looping = self.restarts.note(time.monotonic(), tracer.complaint())
            if looping:
                return looping
            self._tracers[at] = self._begin_tracer()
            self.attach([pid for pid in pids if not self.is_attached(pid)], _ANSWERS_WITHIN)
        return None

    def seen(self) -> dict[str, int]:
        """See `Session.seen`."""
        counts = struct.unpack_from(f"={_NR_MAX}Q", self._state, _SEEN_AT)
        return {self._names.get(number, f"unknown:{number}"): count for number, count in enumerate(counts) if count}

    def probed(self) -> dict[str, int] | None:
        """See `Session.probed`."""
        return None

    def warnings(self) -> list[str]:
        """See `Session.warnings`."""
        result = [
            f"thread {tid} ({procfs.command_name(self._proc, tid)}) makes 32-bit system calls, which are left alone"
            for tid in sorted(self._foreign)
            if procfs.command_name(self._proc, tid)
        ]
        if self._lost:
            result.append(f"{self._lost} calls that were tampered with are not in the figures: the agent did not read for too long")
        return result + self.untold()

    def untold(self) -> list[str]:
        """See `Session.untold`."""
        untold = "calls that were tampered with are not in the figures: their tracer ended before it told of them"
        return [f"{self._untold} {untold}"] if self._untold else []

    def stop(self) -> None:
        """See `Session.stop`."""
        if self._stopped:
            return
        self._stopped = True
        for tracer in self._tracers:
            tracer.ask("detach")
        for tracer in self._tracers:
            if self._is_stopped(tracer):
                self._end_tracer(tracer)
            else:
                tracer.stop()
                self._untold += tracer.untold
        self._rules.clear()
        self._close_state()

    def _close_state(self) -> None:
        self._state.close()
        os.close(self._state_fd)

    def _prepare_tracer(self, tracer: Tracer) -> None:
        """What a new tracer has to be told before all else."""

    def _own_pids(self) -> set[int]:
        return {tracer.pid for tracer in self._tracers}

    def _is_stopped(self, tracer: Tracer) -> bool:
        return procfs.state_of(self._proc, tracer.pid) in ("T", "t")

    def _least_busy(self) -> Tracer:
        """The tracer of the fewest processes, which is a new one if each has some and there may be more."""
        load = Counter(tracer.pid for tracer in self._traced_by.values())
        least = min(self._tracers, key=lambda tracer: load[tracer.pid])
        if load[least.pid] and len(self._tracers) < self._most_tracers:
            least = self._begin_tracer()
            self._tracers.append(least)
        return least

    def _begin_tracer(self) -> Tracer:
        """Start a tracer, and tell it all that the others know."""
        try:
            tracer = self._spawner.submit(Tracer, self._program, self._state_fd, self._take_calls, self._take_event).result()
        except OSError as error:
            raise AgentError(f"the tracer {self._program!r} could not be started: {error.strerror}") from error
        try:
            self._prepare_tracer(tracer)
            if self._marked_by is not None:
                tracer.ask(f"marks {self._marked_by}")
            for key, rule in self._rules.items():
                if key not in self._ended:
                    self._give_rule(tracer, key, rule)
        except AgentError:
            tracer.kill()
            raise
        return tracer

    def _end_tracer(self, tracer: Tracer) -> None:
        tracer.kill()
        self._untold += tracer.untold
        tracer.untold = 0  # it may be ended once more, if no other can be started
        self._traced_by = {pid: by for pid, by in self._traced_by.items() if by is not tracer}

    def _give_rule(self, tracer: Tracer, key: int, rule: _Rule) -> None:
        left = max(1, int((rule.deadline - time.monotonic() + _GRACE) * 1000))
        answer = tracer.tell(f"add {rule_words(key, rule.slot, rule.fault, self._numbers, left)}", _ANSWERS_WITHIN)
        if answer is None or answer.value:
            why = tracer.complaint() or (errno_name(answer.value) if answer else "it did not answer")
            raise AgentError(f"the tracer did not take the fault {rule.fault.text!r}: {why}")

    def _give_marks(self) -> None:
        wanted = self._marks()
        if wanted is not None and wanted != self._marked_by:
            self._marked_by = wanted
            for tracer in self._tracers:
                tracer.ask(f"marks {wanted}")

    def _why_not(self, pid: int, asked: Asked) -> str | None:
        own = self._own_pids()
        for tid in [*asked.refused, *procfs.threads(self._proc, pid)]:
            tracer = procfs.tracer_of(self._proc, pid, tid)
            if tracer is None or tracer in own:
                continue  # it has ended, or is attached
            if tracer:
                return traced_by(self._proc, tid, tracer)
            error = asked.refused.get(tid)
            return f"thread {tid} could not be attached: {errno_name(error) if error else 'it did not stop in time'}"
        return None

    def _take_calls(self, key: int, nr: int, value: int, flags: int, took: list[int]) -> None:
        effects = tuple(name for bit, name in _EFFECT_BITS.items() if flags & bit)
        replaced = bool(flags & _REPLACED)
        self._on_calls(
            Calls(
                key=key,
                syscall=self._names.get(nr, f"unknown:{nr}"),
                error=errno_name(-value) if -4096 < value < 0 else "",
                effects=effects,
                replaced=replaced,
                timed=replaced or not {"delay_enter", "delay_exit"}.isdisjoint(effects),
                returned=bool(flags & _RETURNED),
                count=len(took),
                durations=histogram_of(took),
            )
        )

    def _take_event(self, kind: int, key: int, thread: int, value: int) -> None:
        if kind == ENDED:
            self._ended[key] = "its budget was spent" if value == _SPENT else "its duration was over"
        elif kind == FOREIGN:
            self._foreign.add(thread)
        elif kind == LOST:
            self._lost += value
