"""The tracers of one container. Each tracer has all faults of the container.

There are at most as many tracers as processors. A tracer acts on one thread at a time, and runs on that thread's processor. With
several tracers, processes that are hit at the same time do not wait for each other.
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

from chaosorca.agent import timeouts
from chaosorca.agent.injectors.records import Records
from chaosorca.agent.injectors.rules import rule_words
from chaosorca.agent.injectors.session import Restarts, traced_by
from chaosorca.agent.injectors.tracer import Command, Tracer
from chaosorca.agent.linux import proc as procfs
from chaosorca.model.errno import errno_name
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import Fault

_SLOT = struct.Struct("=QQQ")
_SLOTS, _NR_MAX = 64, 1024
_SEEN_AT = _SLOTS * _SLOT.size
_STATE_SIZE = _SEEN_AT + 8 * _NR_MAX  # struct state in native/rule.h
_MOST_TRACERS = 8


@dataclass
class _Rule:
    fault: Fault
    slot: int
    deadline: float


class TracerPool:
    """Starts, replaces and ends tracers, and sends each of them all faults.

    Any thread may call the methods `faults` and `send` at any time. Only one thread at a time may call the other methods.
    """

    def __init__(
        self,
        numbers: dict[str, int],
        records: Records,
        spawner: Executor,
        marks: Callable[[], int | None],
        proc: Path,
        program: str,
        prepare: Callable[[Tracer], None] = lambda tracer: None,
    ) -> None:
        """Start one tracer.

        Arguments:
            numbers: the numbers of system calls by name.
            records: processes the records of all tracers.
            spawner: starts tracers, from a thread that lives as long as the agent.
            marks: returns the id of the map of threads whose calls the kernel does not time; None while there is no such map.
            proc: the proc file system.
            program: the tracer's executable.
            prepare: sends a new tracer its first commands, or raises `AgentError`.

        Raises:
            AgentError: the tracer could not be started. All resources are released.
        """
        self.restarts = Restarts()
        self.is_stopped = False
        self._numbers = numbers
        self._records = records
        self._spawner = spawner
        self._marks = marks
        self._proc = proc
        self._program = program
        self._prepare = prepare
        self._most_tracers = min(os.cpu_count() or 1, _MOST_TRACERS)
        self._rules: dict[int, _Rule] = {}
        self._tracer_of: dict[int, Tracer] = {}
        self._unreported = 0
        self._marks_sent: int | None = None
        self._state_fd = os.memfd_create("orca-state", os.MFD_CLOEXEC)
        os.ftruncate(self._state_fd, _STATE_SIZE)
        self._state = mmap.mmap(self._state_fd, _STATE_SIZE)
        try:
            self._tracers = [self._start_tracer()]
        except BaseException:
            self._close_state()
            raise

    def faults(self) -> dict[int, Fault]:
        """Return the faults that have been added and not yet removed."""
        return {key: rule.fault for key, rule in list(self._rules.items())}

    def add(self, key: int, fault: Fault, seconds: float, seed: int) -> None:
        """Send a fault to all tracers; see `Session.add`."""
        taken = {rule.slot for rule in self._rules.values()}
        slot = next((slot for slot in range(_SLOTS) if slot not in taken), None)
        if slot is None:
            raise AgentError(f"a container can have {_SLOTS} faults at a time: stop one first")
        _SLOT.pack_into(self._state, slot * _SLOT.size, 0, 0, seed)
        rule = _Rule(fault, slot, time.monotonic() + seconds)
        self._send_marks()
        self._rules[key] = rule
        try:
            for tracer in self._tracers:
                self._send_rule(tracer, key, rule)
        except AgentError:
            self.remove(key)  # from the tracers that have accepted the fault
            raise

    def remove(self, key: int) -> None:
        """Remove a fault from all tracers; see `Session.remove`."""
        if self._rules.pop(key, None) is not None:
            for tracer, command in [(tracer, tracer.send(f"remove {key}")) for tracer in self._tracers]:
                tracer.wait_for(command, timeouts.ANSWER_WITHIN)

    def attach(self, pids: Collection[int], within: float) -> dict[int, str]:
        """Attach a tracer to each process; see `Session.attach`."""
        end = time.monotonic() + within
        self._tracer_of = {pid: tracer for pid, tracer in self._tracer_of.items() if procfs.threads(self._proc, pid)}
        sent: dict[int, Command] = {}
        for pid in pids:
            before = self._tracer_of.get(pid)  # this tracer may still be executing an earlier command
            tracer = self._tracer_of[pid] = before if before in self._tracers else self._least_busy()
            sent[pid] = tracer.send(f"attach {pid}")
        reasons: dict[int, str] = {}
        for pid, command in sent.items():
            self._tracer_of[pid].wait_for(command, end - time.monotonic())
            reason = self._why_not_attached(pid, command)
            if reason:
                reasons[pid] = reason
        return reasons

    def is_attached(self, pid: int) -> bool:
        """Return whether one of these tracers traces a process."""
        return procfs.tracer_of(self._proc, pid, pid) in self._pids()

    def supervise(self, pids: Collection[int], attach: Callable[[Collection[int], float], object]) -> str | None:
        """Replace each tracer that has ended, is stopped or hangs; see `Session.supervise`.

        Arguments:
            pids: the container's processes.
            attach: the session's method `attach`. It attaches the new tracer to the processes of the replaced tracer.
        """
        if self.is_stopped:
            return None
        self._send_marks()
        for at, tracer in enumerate(self._tracers):
            if tracer.alive() and not self._is_suspended(tracer) and tracer.silent_for() < timeouts.TRACER_HUNG_AFTER:
                tracer.send("ping")
                continue
            self._end_tracer(tracer)
            looping = self.restarts.note(time.monotonic(), tracer.last_error())
            if looping:
                return looping
            self._tracers[at] = self._start_tracer()
            attach([pid for pid in pids if not self.is_attached(pid)], timeouts.ANSWER_WITHIN)
        return None

    def send(self, command: str) -> None:
        """Send a command about a thread to all tracers. Only the tracer of the thread acts on the command."""
        for tracer in self._tracers:
            tracer.send(command)

    def ended(self) -> dict[int, str]:
        """Return the faults that have ended by themselves, with the reason; see `Session.ended`."""
        active = self.faults()
        return {key: why for key, why in self._records.ended.items() if key in active}

    def seen(self) -> dict[int, int]:
        """Count the calls at which the tracers have stopped threads, by system call number."""
        counts = struct.unpack_from(f"={_NR_MAX}Q", self._state, _SEEN_AT)
        return {number: count for number, count in enumerate(counts) if count}

    def final_warnings(self) -> list[str]:
        """See `Session.final_warnings`."""
        if not self._unreported:
            return []
        return [f"{self._unreported} injected calls are missing from the figures: their tracer ended before it reported them"]

    def stop(self) -> None:
        """Detach from all threads, and end all tracers. Idempotent."""
        if self.is_stopped:
            return
        self.is_stopped = True
        self.send("detach")
        for tracer in self._tracers:
            if self._is_suspended(tracer):
                self._end_tracer(tracer)
            else:
                tracer.stop()
                self._unreported += tracer.unreported
        self._rules.clear()
        self._close_state()

    def _close_state(self) -> None:
        self._state.close()
        os.close(self._state_fd)

    def _pids(self) -> set[int]:
        return {tracer.pid for tracer in self._tracers}

    def _is_suspended(self, tracer: Tracer) -> bool:
        """Return whether a signal or a debugger has stopped a tracer."""
        return procfs.state_of(self._proc, tracer.pid) in ("T", "t")

    def _least_busy(self) -> Tracer:
        """Return the tracer that traces the fewest processes.

        If every tracer has processes and the pool may still grow, start a tracer and return the new tracer.
        """
        load = Counter(tracer.pid for tracer in self._tracer_of.values())
        least = min(self._tracers, key=lambda tracer: load[tracer.pid])
        if load[least.pid] and len(self._tracers) < self._most_tracers:
            least = self._start_tracer()
            self._tracers.append(least)
        return least

    def _start_tracer(self) -> Tracer:
        """Start a tracer, and send it all commands that the other tracers have received."""
        records = self._records
        try:
            tracer = self._spawner.submit(Tracer, self._program, self._state_fd, records.take_calls, records.take_event).result()
        except OSError as error:
            raise AgentError(f"the tracer {self._program!r} could not be started: {error.strerror}") from error
        try:
            self._prepare(tracer)
            if self._marks_sent is not None:
                tracer.send(f"marks {self._marks_sent}")
            for key, rule in self._rules.items():
                if key not in self._records.ended:
                    self._send_rule(tracer, key, rule)
        except AgentError:
            tracer.kill()
            raise
        return tracer

    def _end_tracer(self, tracer: Tracer) -> None:
        tracer.kill()
        self._unreported += tracer.unreported
        tracer.unreported = 0  # if no new tracer can be started, this method runs again for this one
        self._tracer_of = {pid: by for pid, by in self._tracer_of.items() if by is not tracer}

    def _send_rule(self, tracer: Tracer, key: int, rule: _Rule) -> None:
        left = max(1, int((rule.deadline - time.monotonic() + timeouts.RULE_GRACE) * 1000))
        answer = tracer.call(f"add {rule_words(key, rule.slot, rule.fault, self._numbers, left)}", timeouts.ANSWER_WITHIN)
        if answer is None or answer.error:
            why = tracer.last_error() or (errno_name(answer.error) if answer else "it did not answer")
            raise AgentError(f"the tracer did not accept the fault {rule.fault.text!r}: {why}")

    def _send_marks(self) -> None:
        wanted = self._marks()
        if wanted is not None and wanted != self._marks_sent:
            self._marks_sent = wanted
            self.send(f"marks {wanted}")

    def _why_not_attached(self, pid: int, command: Command) -> str | None:
        own = self._pids()
        for tid in [*command.refused, *procfs.threads(self._proc, pid)]:
            tracer = procfs.tracer_of(self._proc, pid, tid)
            if tracer is None or tracer in own:
                continue  # the thread has ended, or is attached
            if tracer:
                return traced_by(self._proc, tid, tracer)
            error = command.refused.get(tid)
            return f"thread {tid} could not be attached: {errno_name(error) if error else 'it did not stop in time'}"
        return None
