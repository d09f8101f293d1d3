"""Faults by our own tracer (native/tracer.c): one process for all faults of a container.

The tracer decides and acts; this module tells it what to do, takes its records, and sees to it that it is well.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import mmap
import os
import struct
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from chaosorca.agent import proc as procfs
from chaosorca.agent.histogram import histogram_of
from chaosorca.agent.tracers.session import Calls, OnCalls, Restarts
from chaosorca.model.arguments import FileArgument, file_arguments
from chaosorca.model.errno import errno_name, errno_number
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import Fault
from chaosorca.model.signals import signal_number
from chaosorca.model.when import when_bounds

PROGRAM = "orca-tracer"

_RECORD = struct.Struct("=IIiiqQQII")
_CALL, _DONE, _REFUSED, ENDED, _FOREIGN, _LOST, EXEC = range(1, 8)
_SPENT = 1
_EFFECT_BITS = {1: "delay_enter", 2: "error", 4: "retval", 8: "signal", 16: "delay_exit"}
_REPLACED, _RETURNED = 0x100, 0x200
_SLOT = struct.Struct("=QQ")
_SLOTS, _NR_MAX = 64, 1024
_SEEN_AT = _SLOTS * _SLOT.size
_KEPT, _KEPT_AT = 1024, _SEEN_AT + 8 * _NR_MAX
_KEPT_SIZE = _KEPT * _RECORD.size
_STATE_SIZE = _KEPT_AT + _KEPT_SIZE

_ANSWERS_WITHIN = 0.5
_WELL_WITHIN = 2.0
_ENDS_WITHIN = 0.6
_GRACE = 0.5
_PIPE_BYTES = 1 << 20


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
class _Asked:
    """A command that the tracer has been given."""

    since: float
    done: threading.Event = field(default_factory=threading.Event)
    value: int = 0
    refused: dict[int, int] = field(default_factory=dict)


class Tracer:
    """One running tracer."""

    def __init__(
        self,
        program: str,
        state_fd: int,
        on_calls: Callable[[int, int, int, int, list[int]], None],
        on_event: Callable[[int, int, int, int], None],
    ) -> None:
        """Start it. Has to be called by a thread that lives as long as the agent: that is whose death the tracer dies with.

        Arguments:
            program: the executable.
            state_fd: the memory that outlives it.
            on_calls: is told of calls that ended alike (the rule, the system call's number, its result or 0, flags, and how many
                nanoseconds each took), from a thread of this object's, as all else.
            on_event: is told of every other record but the answers to commands (its kind, id, thread and value).
        """
        self._on_calls = on_calls
        self._on_event = on_event
        self._read = 0
        self._serial = 0
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Asked] = {}
        self._lock = threading.Lock()
        self._complaints: deque[str] = deque(maxlen=10)
        self._process = subprocess.Popen(
            [program, str(os.getpid()), str(state_fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[state_fd],
            bufsize=0,
        )
        with contextlib.suppress(OSError):  # what is larger lets it say more before it has to keep it
            fcntl.fcntl(cast(IO[bytes], self._process.stdout), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_records, self._read_complaints)]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def complaint(self) -> str:
        """The last thing that it said was wrong, empty if nothing."""
        return self._complaints[-1] if self._complaints else ""

    def ask(self, command: str) -> _Asked:
        """Give it a command, without waiting for the answer."""
        number, asked = next(self._numbers), _Asked(time.monotonic())
        with self._lock:
            self._asked[number] = asked
            with contextlib.suppress(BrokenPipeError, ValueError):
                cast(IO[bytes], self._process.stdin).write(f"{number} {command}\n".encode())
        return asked

    def tell(self, command: str, within: float) -> _Asked | None:
        """Give it a command, and wait for the answer; None if there was none in time, or it ended."""
        asked = self.ask(command)
        end = time.monotonic() + within
        while not asked.done.wait(0.02):
            if time.monotonic() > end or not self.alive():
                return asked if asked.done.is_set() else None
        return asked

    def silent_for(self) -> float:
        """Seconds since it was asked the oldest thing that it has not answered, 0 if it has answered all."""
        with self._lock:
            return time.monotonic() - min((asked.since for asked in self._asked.values()), default=time.monotonic())

    def kill(self) -> None:
        """End it at once, and take what it had said. The kernel lets go of whom it traced."""
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(_ANSWERS_WITHIN)
        with contextlib.suppress(BrokenPipeError):
            cast(IO[bytes], self._process.stdin).close()

    def take_left(self, kept: bytes) -> None:
        """Once it is dead: take the calls that it had not told of, from the memory in which it kept its last ones."""
        left = [record for record in _RECORD.iter_unpack(kept) if record[-1] > self._serial]
        self._take(b"".join(_RECORD.pack(*record) for record in sorted(left, key=lambda record: int(record[-1]))))

    def stop(self) -> None:
        """Have it let go of all threads and end; it is killed if it does not."""
        self.ask("detach")
        # Whom it traced it has let go of soon; it may have more to say than can be read in that time.
        read, within = -1, _ENDS_WITHIN
        while self.alive() and read != self._read:
            read = self._read
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(within)
            within = _ANSWERS_WITHIN
        self.kill()

    def _read_records(self) -> None:
        with cast(IO[bytes], self._process.stdout) as records:
            left = b""
            while data := records.read(_RECORD.size * 4096):
                data = left + data
                whole = len(data) - len(data) % _RECORD.size
                left = data[whole:]
                self._take(data[:whole])
                self._read += 1

    def _take(self, data: bytes) -> None:
        """Take records in their order. There may be a hundred thousand calls a second: those that ended alike are added up."""
        alike: dict[tuple[int, int, int, int], list[int]] = {}
        for kind, number, thread, nr, value, took, _held, flags, serial in _RECORD.iter_unpack(data):
            if kind == _CALL:
                self._serial = serial
                alike.setdefault((number, nr, min(value, 0), flags), []).append(took)
                continue
            self._tell(alike)
            alike = {}
            if kind in (_DONE, _REFUSED):
                self._answer(kind, number, thread, value)
            else:
                self._on_event(kind, number, thread, value)
        self._tell(alike)

    def _tell(self, alike: dict[tuple[int, int, int, int], list[int]]) -> None:
        for (key, nr, value, flags), took in alike.items():
            self._on_calls(key, nr, value, flags, took)

    def _answer(self, kind: int, number: int, thread: int, value: int) -> None:
        with self._lock:
            asked = self._asked.get(number) if kind == _REFUSED else self._asked.pop(number, None)
        if asked and kind == _REFUSED:
            asked.refused[thread] = value
        elif asked:
            asked.value = value
            asked.done.set()

    def _read_complaints(self) -> None:
        with cast(IO[bytes], self._process.stderr) as lines:
            for line in lines:
                self._complaints.append(line.decode(errors="replace").strip())


@dataclass
class _Rule:
    fault: Fault
    slot: int
    deadline: float


class PtraceSession:
    """All faults of a container, by one tracer; see `session.Session`."""

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
    ) -> None:
        """
        Arguments:
            numbers: the numbers of system calls by name.
            on_calls: is told of the calls that were tampered with.
            spawner: has a thread that lives as long as the agent, to start tracers by.
            marks: the id of the kernel's map of threads whose call it is not to time; None while there is none.
            proc: the proc file system.
            program: the tracer's executable.
        """
        self.restarts = Restarts()
        self._numbers = numbers
        self._names = {number: name for name, number in numbers.items()}
        self._on_calls = on_calls
        self._spawner = spawner
        self._marks = marks
        self._proc = proc
        self._program = program
        self._rules: dict[int, _Rule] = {}
        self._ended: dict[int, str] = {}
        self._foreign: set[int] = set()
        self._lost = 0
        self._told: Counter[int] = Counter()
        self._untold = 0
        self._marked_by: int | None = None
        self._stopped = False
        self._state_fd = os.memfd_create("orca-state", os.MFD_CLOEXEC)
        os.ftruncate(self._state_fd, _STATE_SIZE)
        self._state = mmap.mmap(self._state_fd, _STATE_SIZE)
        self._traced: set[int] = set()
        self._tracer = self._spawn()
        self._prepare_tracer()

    def add(self, key: int, fault: Fault, seconds: float, seed: int) -> None:
        """See `Session.add`."""
        taken = {rule.slot for rule in self._rules.values()}
        slot = next((slot for slot in range(_SLOTS) if slot not in taken), None)
        if slot is None:
            raise AgentError(f"a container can have {_SLOTS} faults at a time: stop one first")
        _SLOT.pack_into(self._state, slot * _SLOT.size, 0, seed)
        rule = _Rule(fault, slot, time.monotonic() + seconds)
        self._give_marks()
        self._give_rule(key, rule)
        self._rules[key] = rule

    def remove(self, key: int) -> None:
        """See `Session.remove`."""
        if self._rules.pop(key, None) is not None:
            self._tracer.tell(f"remove {key}", _ANSWERS_WITHIN)

    def attach(self, pids: Collection[int], within: float) -> dict[int, str]:
        """See `Session.attach`."""
        end = time.monotonic() + within
        asked = {pid: self._tracer.ask(f"attach {pid}") for pid in pids}
        reasons: dict[int, str] = {}
        for pid, one in asked.items():
            while not one.done.wait(0.02) and time.monotonic() < end and self._tracer.alive():
                pass
            reason = self._why_not(pid, one)
            if reason:
                reasons[pid] = reason
        return reasons

    def is_attached(self, pid: int) -> bool:
        """See `Session.is_attached`."""
        return procfs.tracer_of(self._proc, pid, pid) == self._tracer.pid

    def ended(self) -> dict[int, str]:
        """See `Session.ended`."""
        return {key: why for key, why in self._ended.items() if key in self._rules}

    def supervise(self, pids: Collection[int]) -> str | None:
        """See `Session.supervise`."""
        if self._stopped:
            return None
        self._give_marks()
        if self._tracer.alive() and not self._is_stopped() and self._tracer.silent_for() < _WELL_WITHIN:
            self._tracer.ask("ping")
            return None
        said = self._tracer.complaint()
        self._tracer.kill()
        self._take_untold()
        looping = self.restarts.note(time.monotonic(), said)
        if looping:
            return looping
        self._tracer = self._spawn()
        self._prepare_tracer()
        self._marked_by = None
        self._give_marks()
        for key, rule in self._rules.items():
            if key not in self._ended:
                self._give_rule(key, rule)
        self.attach(pids, _ANSWERS_WITHIN)
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
        if self._untold:
            untold = "calls that were tampered with are not in the figures: their tracer ended before it told of them"
            result.append(f"{self._untold} {untold}")
        return result

    def stop(self) -> None:
        """See `Session.stop`."""
        if self._stopped:
            return
        self._stopped = True
        if self._is_stopped():
            self._tracer.kill()
        else:
            self._tracer.stop()
        self._rules.clear()
        self._state.close()
        os.close(self._state_fd)

    def _prepare_tracer(self) -> None:
        """What a new tracer has to be told before all else."""

    def _is_stopped(self) -> bool:
        return procfs.state_of(self._proc, self._tracer.pid) in ("T", "t")

    def _spawn(self) -> Tracer:
        try:
            return self._spawner.submit(Tracer, self._program, self._state_fd, self._take_calls, self._take_event).result()
        except OSError as error:
            raise AgentError(f"the tracer {self._program!r} could not be started: {error.strerror}") from error

    def _take_untold(self) -> None:
        """What a tracer that has died had not told, by the memory that outlives it; of calls that it was at, only how many."""
        self._tracer.take_left(self._state[_KEPT_AT:])
        self._state[_KEPT_AT:] = bytes(_KEPT_SIZE)
        for key, rule in self._rules.items():
            used, _ = _SLOT.unpack_from(self._state, rule.slot * _SLOT.size)
            self._untold += max(0, used - self._told[key])
            self._told[key] = used

    def _give_rule(self, key: int, rule: _Rule) -> None:
        left = max(1, int((rule.deadline - time.monotonic() + _GRACE) * 1000))
        answer = self._tracer.tell(f"add {rule_words(key, rule.slot, rule.fault, self._numbers, left)}", _ANSWERS_WITHIN)
        if answer is None or answer.value:
            why = self._tracer.complaint() or (errno_name(answer.value) if answer else "it did not answer")
            raise AgentError(f"the tracer did not take the fault {rule.fault.text!r}: {why}")

    def _give_marks(self) -> None:
        wanted = self._marks()
        if wanted is not None and wanted != self._marked_by:
            self._marked_by = wanted
            self._tracer.ask(f"marks {wanted}")

    def _why_not(self, pid: int, asked: _Asked) -> str | None:
        for tid in [*asked.refused, *procfs.threads(self._proc, pid)]:
            tracer = procfs.tracer_of(self._proc, pid, tid)
            if tracer in (None, self._tracer.pid):
                continue  # it has ended, or is attached
            if tracer:
                return f"thread {tid} is being traced by process {tracer} ({procfs.command_name(self._proc, tracer)})"
            error = asked.refused.get(tid)
            return f"thread {tid} could not be attached: {errno_name(error) if error else 'it did not stop in time'}"
        return None

    def _take_calls(self, key: int, nr: int, value: int, flags: int, took: list[int]) -> None:
        self._told[key] += len(took)
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
        elif kind == _FOREIGN:
            self._foreign.add(thread)
        elif kind == _LOST:
            self._lost += value
