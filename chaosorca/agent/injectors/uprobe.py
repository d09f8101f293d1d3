"""Faults by our own tracer, woken by uprobes only for the calls that it shall touch; see arming.py and native/tracer.c."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from pathlib import Path

from chaosorca.agent.injectors.arming import SIGNALS, Arming, ArmRule
from chaosorca.agent.injectors.ptrace import PtraceSession, threshold_of
from chaosorca.agent.injectors.session import OnCalls
from chaosorca.agent.injectors.tracer import ENDED, EXEC, PROGRAM, Tracer
from chaosorca.agent.linux import proc as procfs
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import Fault
from chaosorca.model.when import when_bounds

_DISARMED_WITHIN = 0.1
_LOOKS_EVERY, _LOOKS_AT_ALL_EVERY = 0.02, 2.0
_IN_A_HANDLER = 0.005  # a thread may block all signals for a moment
_numbers = itertools.count(1)


class UprobeSession(PtraceSession):
    """All faults of a container, by tracers whose threads run freely until they are armed; see `session.Session`."""

    injector = "uprobe"

    def __init__(
        self,
        numbers: dict[str, int],
        on_calls: OnCalls,
        spawner: Executor,
        marks: Callable[[], int | None],
        arming: Arming,
        cgroups: Callable[[], list[int]],
        proc: Path = Path("/proc"),
        program: str = PROGRAM,
    ) -> None:
        """
        Arguments:
            arming: the probes, and the kernel's part of the decision.
            cgroups: the ids of the target's control groups now.
            others: see `PtraceSession`.
        """
        arming.prepare()
        self._arming = arming
        self._cgroups_now = cgroups
        self._cgroups: list[int] = []
        self._number = next(_numbers)
        self._new_programs: queue.Queue[int | None] = queue.Queue()
        self._looked_at = time.monotonic()
        self._traced: set[int] = set()
        self._stops_at_calls: set[int] = set()
        self._passed_by = 0
        self._unprobed = self._uncovered = ""
        self._probing = threading.Lock()  # a probe of a fault that has ended meanwhile would stay
        super().__init__(numbers, on_calls, spawner, marks, proc, program)
        self._looker = threading.Thread(target=self._look_at_new_code, name="looker", daemon=True)
        self._looker.start()

    def add(self, key: int, fault: Fault, seconds: float, seed: int) -> None:
        """See `Session.add`."""
        super().add(key, fault, seconds, seed)
        first, last, step = when_bounds(fault.when)
        rule = ArmRule(key, bool(fault.path or fault.process), first, last, step, threshold_of(fault) or 0, seed & (2**64 - 1))
        self._follow_cgroups()
        self._arming.probe(self._number, self._traced, self._numbers_of(fault))
        self._arming.set_rule(self._number, self._numbers_of(fault), rule)

    def remove(self, key: int) -> None:
        """See `Session.remove`."""
        rule = self._rules.get(key)
        if rule is not None:
            self._disarm([key])
        super().remove(key)
        if rule is not None:
            with self._probing:
                self._arming.release(self._number, self._numbers_of(rule.fault))
        self._probe_on(self._traced)  # what the others need of it stays

    def attach(self, pids: Collection[int], within: float) -> dict[int, str]:
        """See `Session.attach`."""
        self._follow_cgroups()
        reasons = super().attach(pids, within)
        if not self._traced:  # until now nobody could be hit, and nobody was told otherwise
            self._arming.reset_untraced(self._number)
        self._traced = self._traced | set(pids)  # a new one: the looker may be going through the old one
        self._probe(pids)
        self._stop_blocked_at_calls(pids)
        return reasons

    def supervise(self, pids: Collection[int]) -> str | None:
        """See `Session.supervise`. Looks for code that has been mapped since, too."""
        if self._stopped:
            return None
        self._follow_cgroups()
        new, self._traced = set(pids) - self._traced, set(pids)
        if time.monotonic() - self._looked_at > _LOOKS_AT_ALL_EVERY:
            self._looked_at, new = time.monotonic(), self._traced
        self._probe_on(new)
        self._judge(new)
        reason = super().supervise(pids)
        if (blocked := sum(self._arming.blocked(self._number).values())) != self._passed_by:
            self._passed_by = blocked
            self._stop_blocked_at_calls(self._traced)
        return reason

    def seen(self) -> dict[str, int]:
        """See `Session.seen`: only the calls that faults are on."""
        return {}

    def probed(self) -> dict[str, int] | None:
        """See `Session.probed`."""
        return {self._names[nr]: count for nr, count in self._arming.seen(self._number).items() if nr in self._names}

    def warnings(self) -> list[str]:
        """See `Session.warnings`."""
        blocked = [
            f"{count} calls of {self._names[nr]} were let pass, because the threads had just blocked the signals that stop them: "
            "injector 'ptrace' would hit them"
            for nr, count in self._arming.blocked(self._number).items()
        ]
        untraced = [
            f"{count} calls of {self._names[nr]} were let pass, because no tracer of ours had their threads: "
            "these had only just come, their tracer had ended and was replaced, or somebody else traces them"
            for nr, count in self._arming.untraced(self._number).items()
        ]
        unprobed = [f"{why}: calls from there are not hit" for why in (self._unprobed, self._uncovered) if why]
        return super().warnings() + blocked + untraced + unprobed

    def stop(self) -> None:
        """See `Session.stop`."""
        if self._stopped:
            return
        self._disarm(list(self._rules))
        self._new_programs.put(None)
        super().stop()
        self._looker.join()
        self._arming.set_cgroups(self._number, self._cgroups, [])
        self._arming.release(self._number)
        self._arming.forget(self._number)
        for tid in self._stops_at_calls:
            self._arming.set_syscall_stops(tid, False)

    def _prepare_tracer(self, tracer: Tracer) -> None:
        self._arming.register_tracer(tracer.pid)
        answer = tracer.tell(f"arm {self._arming.armed_map()}", 0.5)
        if answer is None or answer.value:
            raise AgentError("the tracer could not open the map of armed threads")

    def _numbers_of(self, fault: Fault) -> list[int]:
        return [self._numbers[name] for name in fault.syscalls]

    def _follow_cgroups(self) -> None:
        now = self._cgroups_now()
        if now != self._cgroups:
            self._arming.set_cgroups(self._number, self._cgroups, now)
            self._cgroups = now

    def _probe(self, pids: Collection[int]) -> None:
        with self._probing:
            numbers = {nr for rule in list(self._rules.values()) for nr in self._numbers_of(rule.fault)}
            if numbers:
                self._arming.probe(self._number, pids, numbers)

    def _probe_on(self, pids: Collection[int]) -> None:
        """As `_probe`, for code that comes while faults go on: that a place can have no probe is no reason to end them."""
        try:
            self._probe(pids)
        except AgentError as error:
            self._unprobed = str(error)
        except OSError as error:  # whatever has become of a file
            self._unprobed = f"a probe could not be put: {error}"

    def _judge(self, pids: Collection[int]) -> None:
        """Look whether all calls of code that has come since the beginning come by a probe."""
        why = self._arming.cannot(pids)
        if why or pids is self._traced:
            self._uncovered = why

    def _stop_blocked_at_calls(self, pids: Collection[int]) -> None:
        """Have threads that keep the signals blocked which would stop them be stopped at each call; Redis's helpers are such."""
        self._stops_at_calls = {tid for tid in self._stops_at_calls if self._arming.has_syscall_stops(tid)}
        threads = [(pid, tid) for pid in pids for tid in procfs.threads(self._proc, pid) if tid not in self._stops_at_calls]
        blocking = [one for one in threads if self._blocks_signals(*one)]
        if blocking:
            time.sleep(_IN_A_HANDLER)
        for pid, tid in blocking:
            if self._blocks_signals(pid, tid):
                self._arming.set_syscall_stops(tid, True)
                self._stops_at_calls.add(tid)
        for tid in self._stops_at_calls:
            for tracer in self._tracers:  # all but one know no such thread; a new one has to be told again
                tracer.ask(f"syscall-stops {tid}")

    def _blocks_signals(self, pid: int, tid: int) -> bool:
        first, other = SIGNALS
        blocked = procfs.signals(self._proc, pid, tid, "SigBlk")
        return first in blocked and other in blocked | procfs.signals(self._proc, pid, tid, "SigCgt")

    def _disarm(self, keys: list[int]) -> None:
        """Have nobody be armed any more, and those who are meet their tracer."""
        end = time.monotonic() + _DISARMED_WITHIN
        for key in keys:
            self._arming.drop_rule(self._number, self._numbers_of(self._rules[key].fault))
        while any(self._arming.armed_by(key) for key in keys) and time.monotonic() < end:
            time.sleep(0.001)

    def _take_event(self, kind: int, key: int, thread: int, value: int) -> None:
        super()._take_event(kind, key, thread, value)
        if kind == ENDED and (rule := self._rules.get(key)) is not None:
            self._arming.drop_rule(self._number, self._numbers_of(rule.fault))
        elif kind == EXEC:
            self._new_programs.put(thread)

    def _look_at_new_code(self) -> None:
        """Put probes into programs that begin and libraries that are loaded while the faults go on."""
        mapped = 0
        while True:
            try:
                tid = self._new_programs.get(timeout=_LOOKS_EVERY)
            except queue.Empty:
                before, mapped = mapped, self._arming.new_code(self._number)
                if mapped != before:
                    self._probe_on(self._traced)
                continue
            if tid is None:
                return
            self._probe_on([tid])
            for tracer in self._tracers:  # all others know no such thread
                tracer.ask(f"go {tid}")
            self._judge([tid])
