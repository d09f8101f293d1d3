"""The injector `uprobe`: a tracee runs freely until a uprobe arms it. The armed thread then stops for a native tracer.

See arming.py and native/tracer.c.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from pathlib import Path

from chaosorca.agent import timeouts
from chaosorca.agent.injectors.arming import SIGNALS, Arming, ArmRule
from chaosorca.agent.injectors.pool import TracerPool
from chaosorca.agent.injectors.records import ENDED, EXEC, Records
from chaosorca.agent.injectors.rules import threshold_of
from chaosorca.agent.injectors.session import OnCalls
from chaosorca.agent.injectors.tracer import PROGRAM, Tracer
from chaosorca.agent.linux import proc as procfs
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import Fault
from chaosorca.model.when import when_bounds

_numbers = itertools.count(1)


class UprobeSession:
    """All faults of a container. The container's threads stop only after they have been armed; see `session.Session`."""

    injector = "uprobe"
    timing = "by thread"

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
        """Start a tracer.

        Arguments:
            arming: attaches the probes, and passes the rules to the kernel.
            cgroups: returns the current ids of the target's control groups.
            numbers, on_calls, spawner, marks, proc, program: see `PtraceSession`.

        Raises:
            AgentError: the eBPF program could not be loaded, or the tracer could not be started. All resources are released.
        """
        arming.prepare()
        self._numbers = numbers
        self._names = {number: name for name, number in numbers.items()}
        self._proc = proc
        self._arming = arming
        self._cgroups_now = cgroups
        self._cgroups: list[int] = []
        self._number = next(_numbers)
        self._new_programs: queue.Queue[int | None] = queue.Queue()
        self._all_checked = time.monotonic()
        self._traced: set[int] = set()
        self._stopped_at_calls: set[int] = set()
        self._blocked = 0
        self._unprobed = self._uncovered = ""
        # Held while probes are attached or released. Without this lock, the prober could attach probes for a fault that has just
        # ended, and these probes would stay. The lock guards no data. It is taken before the lock of `Arming`.
        self._probing = threading.Lock()
        self._records = Records(self._names, on_calls, self._on_event)
        self._pool = TracerPool(numbers, self._records, spawner, marks, proc, program, self._prepare_tracer)
        self.restarts = self._pool.restarts
        self._prober = threading.Thread(target=self._probe_new_code, name="prober", daemon=True)
        try:
            self._prober.start()
        except RuntimeError:  # the kernel does not start another thread
            self._pool.stop()
            raise

    def add(self, key: int, fault: Fault, seconds: float, seed: int) -> None:
        """See `Session.add`."""
        self._pool.add(key, fault, seconds, seed)
        first, last, step = when_bounds(fault.when)
        rule = ArmRule(key, bool(fault.path or fault.process), first, last, step, threshold_of(fault) or 0, seed & (2**64 - 1))
        self._follow_cgroups()
        self._arming.probe(self._number, self._traced, self._numbers_of(fault))
        self._arming.set_rule(self._number, self._numbers_of(fault), rule)

    def remove(self, key: int) -> None:
        """See `Session.remove`."""
        fault = self._pool.faults().get(key)
        if fault is not None:
            self._disarm({key: fault})
        self._pool.remove(key)
        if fault is not None:
            with self._probing:
                self._arming.release(self._number, self._numbers_of(fault))
        self._try_probe(self._traced)  # for the other faults

    def attach(self, pids: Collection[int], within: float) -> dict[int, str]:
        """See `Session.attach`."""
        self._follow_cgroups()
        reasons = self._pool.attach(pids, within)
        if not self._traced:  # calls before the first attach do not count as missed
            self._arming.reset_untraced(self._number)
        self._traced = self._traced | set(pids)  # a new set, since the prober may still be iterating over the old set
        self._probe(pids)
        self._stop_blocked_at_calls(pids)
        return reasons

    def is_attached(self, pid: int) -> bool:
        """See `Session.is_attached`."""
        return self._pool.is_attached(pid)

    def ended(self) -> dict[int, str]:
        """See `Session.ended`."""
        return self._pool.ended()

    def supervise(self, pids: Collection[int]) -> str | None:
        """See `Session.supervise`. Also attach probes to newly mapped code."""
        if self._pool.is_stopped:
            return None
        self._follow_cgroups()
        new, self._traced = set(pids) - self._traced, set(pids)
        if time.monotonic() - self._all_checked > timeouts.ALL_CODE_CHECKED_EVERY:
            self._all_checked, new = time.monotonic(), self._traced
        self._try_probe(new)
        self._check_coverage(new)
        reason = self._pool.supervise(pids, self.attach)
        if (blocked := sum(self._arming.blocked(self._number).values())) != self._blocked:
            self._blocked = blocked
            self._stop_blocked_at_calls(self._traced)
        return reason

    def seen(self) -> dict[str, int]:
        """See `Session.seen`. The result is empty, because tracers see only the calls of armed threads."""
        return {}

    def probed(self) -> dict[str, int] | None:
        """See `Session.probed`."""
        return {self._names[nr]: count for nr, count in self._arming.seen(self._number).items() if nr in self._names}

    def warnings(self) -> list[str]:
        """See `Session.warnings`."""
        blocked = [
            f"{count} calls of {self._names[nr]} were not hit, because their threads had just blocked the signals that stop them: "
            "injector 'ptrace' hits such calls"
            for nr, count in self._arming.blocked(self._number).items()
        ]
        untraced = [
            f"{count} calls of {self._names[nr]} were not hit, because their threads had no tracer of the agent: "
            "the threads were new, their tracer was being replaced, or another process traces them"
            for nr, count in self._arming.untraced(self._number).items()
        ]
        unprobed = [f"{why}: calls from there are not hit" for why in (self._unprobed, self._uncovered) if why]
        return self._records.warnings(self._proc) + self.final_warnings() + blocked + untraced + unprobed

    def final_warnings(self) -> list[str]:
        """See `Session.final_warnings`."""
        return self._pool.final_warnings()

    def stop(self) -> None:
        """See `Session.stop`."""
        if self._pool.is_stopped:
            return
        self._disarm(self._pool.faults())
        self._new_programs.put(None)
        self._pool.stop()
        self._prober.join()
        self._arming.set_cgroups(self._number, self._cgroups, [])
        self._arming.release(self._number)
        self._arming.forget(self._number)
        for tid in self._stopped_at_calls:
            self._arming.set_syscall_stops(tid, False)

    def _prepare_tracer(self, tracer: Tracer) -> None:
        self._arming.register_tracer(tracer.pid)
        answer = tracer.call(f"arm {self._arming.armed_map()}", timeouts.ANSWER_WITHIN)
        if answer is None or answer.error:
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
            numbers = {nr for fault in self._pool.faults().values() for nr in self._numbers_of(fault)}
            if numbers:
                self._arming.probe(self._number, pids, numbers)

    def _try_probe(self, pids: Collection[int]) -> None:
        """Attach probes to code that is mapped during a fault. If a probe cannot be attached, keep the fault and warn."""
        try:
            self._probe(pids)
        except AgentError as error:
            self._unprobed = str(error)
        except OSError as error:  # a file may have changed in any way
            self._unprobed = f"no uprobe could be attached: {error}"

    def _check_coverage(self, pids: Collection[int]) -> None:
        """If code that was mapped during a fault makes calls that no probe sees, keep the reason for the warnings."""
        why = self._arming.cannot(pids)
        if why or pids is self._traced:
            self._uncovered = why

    def _stop_blocked_at_calls(self, pids: Collection[int]) -> None:
        """Find threads that keep the arming signals blocked, and have the tracer stop them at each call.

        Redis's helper threads block these signals, for example.
        """
        self._stopped_at_calls = {tid for tid in self._stopped_at_calls if self._arming.has_syscall_stops(tid)}
        threads = [(pid, tid) for pid in pids for tid in procfs.threads(self._proc, pid) if tid not in self._stopped_at_calls]
        blocking = [one for one in threads if self._blocks_signals(*one)]
        if blocking:
            time.sleep(timeouts.SIGNAL_HANDLER_WITHIN)
        for pid, tid in blocking:
            if self._blocks_signals(pid, tid):
                self._arming.set_syscall_stops(tid, True)
                self._stopped_at_calls.add(tid)
        for tid in self._stopped_at_calls:  # a tracer that replaces another one needs the whole list
            self._pool.send(f"syscall-stops {tid}")

    def _blocks_signals(self, pid: int, tid: int) -> bool:
        first, other = SIGNALS
        blocked = procfs.signals(self._proc, pid, tid, "SigBlk")
        return first in blocked and other in blocked | procfs.signals(self._proc, pid, tid, "SigCgt")

    def _disarm(self, faults: dict[int, Fault]) -> None:
        """Stop arming threads, and wait until all armed threads have reached their tracer."""
        end = time.monotonic() + timeouts.DISARMED_WITHIN
        for fault in faults.values():
            self._arming.drop_rule(self._number, self._numbers_of(fault))
        while any(self._arming.armed_by(key) for key in faults) and time.monotonic() < end:
            time.sleep(timeouts.DISARMED_POLLED_EVERY)

    def _on_event(self, kind: int, key: int, thread: int) -> None:
        if kind == ENDED and (fault := self._pool.faults().get(key)) is not None:
            self._arming.drop_rule(self._number, self._numbers_of(fault))
        elif kind == EXEC:
            self._new_programs.put(thread)

    def _probe_new_code(self) -> None:
        """Attach probes to programs and libraries that a process executes or loads during the faults."""
        mapped = 0
        while True:
            try:
                tid = self._new_programs.get(timeout=timeouts.NEW_CODE_POLLED_EVERY)
            except queue.Empty:
                before, mapped = mapped, self._arming.new_code(self._number)
                if mapped != before:
                    self._try_probe(self._traced)
                continue
            if tid is None:
                return
            self._try_probe([tid])
            self._pool.send(f"go {tid}")
            self._check_coverage([tid])
