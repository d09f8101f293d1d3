"""Starts and ends the faults of this Docker Engine, and attaches them to new processes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from chaosorca.agent import timeouts
from chaosorca.agent.faults import warnings
from chaosorca.agent.faults.abort import AbortCheck
from chaosorca.agent.faults.choice import Cgroups, Choice
from chaosorca.agent.faults.injection import Injection, timed_by_call, timed_by_thread
from chaosorca.agent.faults.ledger import Ledger
from chaosorca.agent.faults.monitored import Monitored
from chaosorca.agent.faults.traced import Tracees
from chaosorca.agent.injectors.session import Calls, Session
from chaosorca.agent.loops import surviving
from chaosorca.agent.targets.target import Target
from chaosorca.model.abort import parse_abort_when
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import Fault
from chaosorca.model.record import FaultRecord

_HISTORY = 200
"""The number of ended faults that are kept."""


class Faults:
    """Starts and ends faults, and attaches them to new processes."""

    def __init__(
        self,
        ledger: Ledger,
        monitored: Monitored,
        choice: Choice,
        admit: Callable[[], None] = lambda: None,
        proc: Path = Path("/proc"),
    ) -> None:
        """
        Arguments:
            ledger: receives the counts of injected calls.
            monitored: the monitoring of the containers.
            choice: opens the sessions.
            admit: raises an error while no further fault may start.
            proc: the proc file system.
        """
        self._ledger = ledger
        self._monitored = monitored
        self._choice = choice
        self._admit = admit
        self._proc = proc
        self._tracees = Tracees(proc)
        self.changing = threading.RLock()
        """Serialises starts, stops and ticks. The monitoring has its own lock, so a fault can end while eBPF programs load."""
        self._listing = threading.Lock()  # guards `_injections`, for readers that must not wait for `changing`
        self._injections: list[Injection] = []
        self._counting = threading.Lock()  # guards `Injection.fired`, which several threads update
        self._processed: dict[str, frozenset[int]] = {}  # the processes of the last tick, by container; only `run` uses it
        self._called_off: deque[str] = deque(maxlen=_HISTORY)

    def start(self, target: Target, fault: Fault, fault_id: str, run: str, injector: str, seed: int) -> tuple[FaultRecord, int]:
        """Attach a fault to all processes of a container.

        Arguments:
            target: the container.
            fault: the fault.
            fault_id: the id of the fault.
            run: the id of the run that starts it.
            injector: `uprobe`, `ptrace`, `strace`, or `auto` for the cheapest injector that can inject the fault.
            seed: the seed of the random decisions.

        Returns:
            the fault's record, and the number of attached processes.

        Raises:
            AgentError: the container already has a fault on one of these system calls, is being traced, or none of its processes
                could be attached.
        """
        with self.changing:
            self._admit()
            injection = self._prepare(target, fault, fault_id, run, injector, seed)
            with self._listing:
                self._injections.append(injection)
            try:
                attached = self._attach(injection)
            except BaseException:
                self._end(injection, "it could not be attached")
                with self._listing:
                    self._injections.remove(injection)
                raise
            return injection.record(), attached

    def stop(
        self,
        reason: str,
        container: str | None = None,
        syscalls: list[str] | None = None,
        run: str | None = None,
        fault_id: str | None = None,
    ) -> list[FaultRecord]:
        """End the active faults that match all criteria. A criterion that is None matches every fault.

        Arguments:
            reason: why the faults end; their records contain it.
            container: a container's name or id.
            syscalls: system calls; a fault on one of them matches.
            run: the id of a run.
            fault_id: the id of a fault.

        Returns:
            the records of the ended faults.

        Raises:
            AgentError: a process is still traced.
        """
        with self.changing:
            if fault_id is not None:
                self._called_off.append(fault_id)  # if the request to start this fault arrives later, it is refused
            ended = [
                injection
                for injection in self._active()
                if container in (None, injection.target.name, injection.target.id)
                and (syscalls is None or set(syscalls) & set(injection.fault.syscalls))
                and run in (None, injection.run)
                and fault_id in (None, injection.id)
            ]
            for injection in ended:
                self._end(injection, reason)
            for injection in ended:
                if not self.active_on(injection.target.name):
                    self._tracees.check_released(injection.target)
            return [injection.record() for injection in ended]

    def run(self) -> None:
        """Keep the faults up to date until the agent ends."""
        while True:
            with surviving("new processes"):
                self.wait_for_new_processes(timeouts.FAULTS_TICK_EVERY)
            with surviving("faults"):
                self.tick()

    def wait_for_new_processes(self, seconds: float) -> bool:
        """Wait until a target has a process that `tick` has not seen yet.

        A tracee's child has the same tracer from its first instruction, so the child does not count as new.

        Arguments:
            seconds: the longest time to wait.

        Returns:
            whether there is a new process.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, timeouts.NEW_PROCESSES_POLLED_EVERY))
            for target in self.targets():
                if any(map(self._tracees.is_free, target.new_pids(self._processed.get(target.name, ())))):
                    return True
        return False

    def tick(self) -> None:
        """End the faults that are over, attach the other faults to new processes, and replace failed tracers."""
        with self.changing:
            for injection in self._active():
                over = "its duration was over" if time.monotonic() >= injection.deadline else None
                over = over or injection.session.ended().get(injection.key) or self._abort_reason(injection)
                if over:
                    self._end(injection, over)
            processed = {}
            for target in self.targets():
                injections = self.active_on(target.name)
                try:
                    pids = target.pids()
                    processed[target.name] = frozenset(pids)
                    self._supervise(injections, pids)
                except (AgentError, OSError) as error:  # the loop still supervises the other containers
                    for injection in injections:
                        injection.warn(f"it is not being followed: {error}")
            self._processed = processed
            self._drop_oldest()

    def replace_target(self, target: Target) -> None:
        """Move the active faults of the target with the same name to this target. The next tick attaches them to its processes."""
        with self.changing:
            for injection in self.active_on(target.name):
                injection.target = target

    def forget_counts(self, container: str) -> None:
        """Drop the ledger's counts of a container, unless the container has an active fault."""
        if not self.active_on(container):
            self._ledger.forget(container)

    def active_on(self, container: str) -> list[Injection]:
        """Return the active faults of a container."""
        return [injection for injection in self._active() if injection.target.name == container]

    def targets(self) -> list[Target]:
        """Return the containers that have active faults."""
        return list({injection.target.name: injection.target for injection in self._active()}.values())

    def records(self) -> list[FaultRecord]:
        """Return the records of all faults, including ended faults, oldest first."""
        return [injection.record() for injection in self._all()]

    def restarts(self) -> dict[tuple[str], float]:
        """Return the number of replaced tracers of each container."""
        sessions = {(injection.target.name, id(injection.session)): injection.session for injection in self._all()}
        total: Counter[tuple[str]] = Counter()
        for (name, _), session in sessions.items():
            total[(name,)] += session.restarts.total
        return dict(total)

    def _all(self) -> list[Injection]:
        with self._listing:
            return list(self._injections)

    def _active(self) -> list[Injection]:
        return [injection for injection in self._all() if injection.active]

    def _prepare(self, target: Target, fault: Fault, fault_id: str, run: str, injector: str, seed: int) -> Injection:
        """Check what can be checked before the start. Use the container's session, or open a session if it has none."""
        if fault_id in self._called_off:
            raise AgentError(f"the fault on container {target.name!r} was stopped before it began")
        running = self.active_on(target.name)
        _refuse_conflict(target, fault, injector, running)
        abort = AbortCheck(parse_abort_when(fault.abort_when)) if fault.abort_when else None
        if abort and self._monitored.requests_to(target.name) is None:
            raise AgentError(
                f"abort_when {fault.abort_when!r} needs the HTTP monitoring of container {target.name!r}: start it first"
            )
        pids = target.pids()
        if not pids:
            raise AgentError(f"container {target.name!r} has no process: start it again")
        if not running:
            self._tracees.refuse_traced(target, pids)
        key = self._choice.next_key()
        foreseen = warnings.foreseen(fault, pids, self._monitored.calls_of(target.name) or {}, self._proc)
        if running:
            session, why = running[0].session, ""
        else:
            session, why = self._choice.begin(
                injector, fault, pids, lambda calls: self._count(target.name, calls), self._cgroups_of(target)
            )
        foreseen += [why] if why else []
        deadline = time.monotonic() + fault.duration / 1e6
        injection = Injection(fault_id, run, target, fault, seed, key, session, time.time(), deadline, abort, foreseen=foreseen)
        injection.warn()
        return injection

    def _attach(self, injection: Injection) -> int:
        """Attach a new injection to all processes of its target, and return the number of attached processes."""
        target, session, fault = injection.target, injection.session, injection.fault
        self._update_timing(target.name)
        session.add(injection.key, fault, fault.duration / 1e6, injection.seed)
        unattached = [pid for pid in target.pids() if not session.is_attached(pid)]
        injection.not_attached = session.attach(unattached, timeouts.ATTACH_WITHIN)
        attached = [pid for pid in target.pids() if session.is_attached(pid)]
        injection.calls_before = self._calls_made_by(target.name)
        if not attached:
            reasons = "; ".join(sorted(set(injection.not_attached.values()))) or "all of them have ended"
            raise AgentError(f"no process of container {target.name!r} could be attached: {reasons}")
        return len(attached)

    def _cgroups_of(self, target: Target) -> Cgroups:
        """Return a function that returns the current control groups of a container, even after the container's re-creation."""

        def cgroups() -> list[int]:
            active = self.active_on(target.name)
            return (active[0].target if active else target).cgroup.ids()

        return cgroups

    def _supervise(self, injections: list[Injection], pids: list[int]) -> None:
        """Attach the faults of one container to new processes, and replace failed tracers."""
        first = injections[0]
        session = first.session
        given_up = session.supervise(pids)
        if given_up:
            for injection in injections:
                self._end(injection, given_up)
            return
        not_attached = self._attach_new(first, session, pids)
        traced = {pid: why for pid in pids if (why := self._tracees.why_traced(session, pid))}
        for injection in injections:
            injection.not_attached = not_attached | traced
            injection.traced_by_others = set(traced)
            self._review(injection)

    def _attach_new(self, first: Injection, session: Session, pids: list[int]) -> dict[int, str]:
        """Attach to new processes and retry failed attaches. Return the processes that are not attached, each with the reason."""
        is_free = self._tracees.is_free
        left = {
            pid: why
            for pid, why in first.not_attached.items()
            if pid in pids and pid not in first.traced_by_others and not self._tracees.is_wholly_attached(session, pid)
        }
        if left and first.backoff.is_due():  # a busy machine may have been too slow for the first attempt
            left = {pid: why for pid, why in left.items() if not is_free(pid)}
        new = [pid for pid in pids if pid not in left and is_free(pid)]
        return left | session.attach(new, timeouts.ATTACH_NEW_WITHIN) if new else left

    def _review(self, injection: Injection) -> None:
        container, probed = injection.target.name, injection.session.probed()
        # The kernel's counts are read only if they are needed.
        needed = probed is not None and injection.calls_before is not None
        made = self._calls_made_by(container) if needed else None
        warnings.review(injection, probed, made, lambda: self._monitored.calls_of(container) or {})

    def _calls_made_by(self, container: str) -> Counter[str] | None:
        """Return how often a container made each system call, including injected calls; None if calls are not monitored."""
        counted = self._monitored.calls_of(container)
        return None if counted is None else Counter(counted) + self._ledger.calls_of(container)

    def _abort_reason(self, injection: Injection) -> str | None:
        requests = self._monitored.requests_to(injection.target.name) if injection.abort else None
        return injection.abort.feed(time.monotonic(), requests) if injection.abort and requests else None

    def _end(self, injection: Injection, reason: str) -> None:
        others = [one for one in self.active_on(injection.target.name) if one is not injection]
        with contextlib.suppress(OSError):  # the fault ends even if /proc is unreadable
            self._review(injection)
        if others:
            injection.session.remove(injection.key)
        else:
            injection.session.stop()
            injection.warnings = list(dict.fromkeys([*injection.warnings, *injection.session.final_warnings()]))
        injection.ended, injection.reason = time.time(), reason
        self._update_timing(injection.target.name)

    def _update_timing(self, container: str) -> None:
        active = self.active_on(container)
        self._monitored.leave_timing_to_tracer(container, timed_by_call(active), timed_by_thread(active))

    def _drop_oldest(self) -> None:
        with self._listing:
            ended = [injection for injection in self._injections if not injection.active]
            for injection in ended[:-_HISTORY]:
                self._injections.remove(injection)

    def _count(self, container: str, calls: Calls) -> None:
        """Count calls that a session reports."""
        if calls.effects:
            with self._counting:
                for injection in reversed(self._all()):
                    if injection.key == calls.key:
                        injection.fired[calls.syscall] += calls.count
                        break
            self._ledger.add_injected(container, calls.syscall, "+".join(calls.effects), calls.count)
        if calls.returned and calls.replaced:
            # Replaced calls never entered the kernel, so the kernel has neither counted nor timed them.
            self._ledger.add_calls(container, calls.syscall, calls.error, calls.count)
        if calls.returned and calls.timed:
            self._ledger.add_durations(container, calls.syscall, calls.durations)


def _refuse_conflict(target: Target, fault: Fault, injector: str, running: list[Injection]) -> None:
    for one in running:
        both = [name for name in fault.syscalls if name in one.fault.syscalls]
        if both:
            raise AgentError(
                f"container {target.name!r} has the fault {one.fault.text!r} on {both[0]} already: "
                "stop it first, or choose another system call"
            )
        if injector not in ("auto", one.session.injector) or one.session.injector == "strace":
            raise AgentError(
                f"container {target.name!r} has the fault {one.fault.text!r} by {one.session.injector} already, "
                "and a thread can have only one tracer: stop it first, or start both with the same injector"
            )
