"""The faults of this engine: what is attached where, until when, and how often it fired."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaosorca.agent.faults.abort import AbortWatch, Requests
from chaosorca.agent.faults.ledger import Ledger
from chaosorca.agent.injectors.arming import Arming
from chaosorca.agent.injectors.ptrace import PtraceSession
from chaosorca.agent.injectors.session import Calls, OnCalls, Session, traced_by
from chaosorca.agent.injectors.strace import StraceSession
from chaosorca.agent.injectors.uprobe import UprobeSession
from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.targets.target import Target
from chaosorca.model.abort import parse_abort_when
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import Fault
from chaosorca.model.injectors import uprobe_cannot
from chaosorca.model.syscalls import siblings, syscall_numbers
from chaosorca.model.times import iso

_ATTACH_WITHIN = 3.0
_NEWCOMERS_WITHIN = 0.5
_TRIED_AGAIN_AFTER, _TRIED_AGAIN_AFTER_MOST = 1.0, 60.0
_LOOKS_EVERY = 0.02
_RELEASED_WITHIN = 2.0
_FIRST_SECONDS = 3.0
_HISTORY = 200
_FEW, _SMALL_SHARE = 20, 0.01


@dataclass
class Injection:
    """A fault on one container, from its start on; it stays known after its end."""

    id: str
    run: str
    target: Target
    fault: Fault
    seed: int
    key: int
    session: Session
    begins: float
    deadline: float
    not_attached: dict[int, str] = field(default_factory=dict)
    traced_by_others: set[int] = field(default_factory=set)
    """Those of them that somebody else traces now."""
    next_try: float = 0.0
    """When they are tried once more; the first fault of a container keeps this for all."""
    pause: float = _TRIED_AGAIN_AFTER
    """How long it takes from that try to the next: each may interrupt them."""

    abort: AbortWatch | None = None
    fired: Counter[str] = field(default_factory=Counter)
    ended: float | None = None
    reason: str = ""
    foreseen: list[str] = field(default_factory=list)
    """What there was to warn of at its start."""

    warnings: list[str] = field(default_factory=list)
    """What there is to warn of now."""

    before: Counter[str] | None = None
    """The calls that its container had made when it began, where somebody counts them."""

    coverage: dict[str, dict[str, int]] = field(default_factory=dict)
    """By system call, how many have been made since, and how many of them came by a probe."""

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.ended is None

    def to_json(self) -> dict[str, Any]:
        """The fault as `status` tells of it."""
        fired = sum(self.fired.values())
        return {
            "fault": self.id,
            "run": self.run,
            "container": self.target.name,
            "container_id": self.target.id,
            "text": self.fault.text,
            "injector": self.session.injector,
            "seed": self.seed,
            "syscalls": list(self.fault.syscalls),
            "effects": list(self.fault.effects),
            "placebo": self.fault.placebo,
            "active": self.active,
            "state": {0: "never fired", 1: "fired once"}.get(fired, f"fired {fired} times"),
            "begins": iso(self.begins),
            "ends": iso(self.begins + self.fault.duration / 1e6),
            "ended": iso(self.ended) if self.ended is not None else None,
            "reason": self.reason,
            "abort_when": self.fault.abort_when,
            "injected": dict(self.fired),
            "not_attached": [{"pid": pid, "reason": why} for pid, why in sorted(self.not_attached.items())],
            "coverage": self.coverage,
            "tracer_restarts": self.session.restarts.total,
            "warnings": self.warnings,
        }


class Faults:
    """Starts and ends faults, attaches them to processes that arrive later, and keeps their clocks."""

    def __init__(
        self,
        arch: str,
        ledger: Ledger,
        on_change: Callable[[str], None],
        requests: Callable[[str], Requests | None],
        calls: Callable[[str], dict[str, int] | None] = lambda name: None,
        marks: Callable[[], int | None] = lambda: None,
        proc: Path = Path("/proc"),
    ) -> None:
        """
        Arguments:
            arch: the machine, `x86_64` or `aarch64`.
            ledger: where tampered calls are written down.
            on_change: is told a container's name when one of its faults is about to start, or has ended.
            requests: the HTTP requests to a container so far, None for one whose HTTP is not monitored.
            calls: how often a container was seen to make each system call; None where nobody looks.
            marks: the id of the kernel's map of threads whose call it is not to time; None while there is none.
            proc: the proc file system.
        """
        self._requests = requests
        self._calls = calls
        self._marks = marks
        self._arch = arch
        self._numbers = syscall_numbers(arch)
        self._ledger = ledger
        self._on_change = on_change
        self._proc = proc
        self._injections: list[Injection] = []
        self._met: dict[str, frozenset[int]] = {}
        self.arming = Arming(proc)
        self._keys = itertools.count(1)
        self._called_off: deque[str] = deque(maxlen=_HISTORY)
        self._counting = threading.Lock()
        # A tracer has the kernel kill it when the thread that started it ends: this one never does before the agent.
        self._spawner: Executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

    def start(self, target: Target, fault: Fault, fault_id: str, run: str, injector: str, seed: int) -> dict[str, Any]:
        """Attach a fault to all processes of a container, and wait until it is.

        Arguments:
            injector: `uprobe`, `ptrace`, `strace`, or `auto` for the cheapest that can do it.
            seed: what the generator of its random decisions begins with.

        Returns:
            what `start_fault` says of the container.

        Raises:
            AgentError: a fault is on one of these system calls already, the container is being traced, or nothing could be
                attached.
        """
        if fault_id in self._called_off:
            raise AgentError(f"the fault on container {target.name!r} was stopped before it began")
        running = self.active_on(target.name)
        self._refuse_twice(target, fault, injector, running)
        abort = AbortWatch(parse_abort_when(fault.abort_when)) if fault.abort_when else None
        if abort and self._requests(target.name) is None:
            raise AgentError(
                f"abort_when {fault.abort_when!r} needs the HTTP monitoring of container {target.name!r}: start it first"
            )
        pids = target.pids()
        if not pids:
            raise AgentError(f"container {target.name!r} has no process: start it again")
        if not running:
            self._refuse_traced(target, pids)
        seconds = fault.duration / 1e6
        key = next(self._keys)
        foreseen = self._warnings(target, fault, pids)
        session, why = (running[0].session, "") if running else self._open(injector, target, fault, pids)
        injection = Injection(
            fault_id, run, target, fault, seed, key, session, time.time(), time.monotonic() + seconds, abort=abort
        )
        injection.foreseen = injection.warnings = foreseen + ([why] if why else [])
        self._injections.append(injection)
        try:
            self._on_change(target.name)
            session.add(key, fault, seconds, seed)
            injection.not_attached = session.attach([pid for pid in pids if not session.is_attached(pid)], _ATTACH_WITHIN)
            attached = [pid for pid in target.pids() if session.is_attached(pid)]
            injection.before = self._made_by(target.name)
            if not attached:
                reasons = "; ".join(sorted(set(injection.not_attached.values()))) or "all of them have ended"
                raise AgentError(f"no process of container {target.name!r} could be attached: {reasons}")
        except BaseException:
            self._end(injection, "it could not be attached")
            self._injections.remove(injection)
            raise
        record = injection.to_json()
        told = ("fault", "text", "injector", "seed", "syscalls", "effects", "begins", "ends", "not_attached", "warnings")
        return {**{name: record[name] for name in told}, "name": target.name, "id": target.id, "attached": len(attached)}

    def stop(
        self,
        reason: str,
        container: str | None = None,
        syscalls: list[str] | None = None,
        run: str | None = None,
        fault_id: str | None = None,
    ) -> list[dict[str, Any]]:
        """End all active faults of a container (name or id), with one of some system calls, of a run, of an id; None: any.

        Returns:
            what each had done.
        """
        ended = []
        if fault_id is not None:
            self._called_off.append(fault_id)  # whoever was interrupted may have asked for it without its having arrived
        for injection in [injection for injection in self._injections if injection.active]:
            if container not in (None, injection.target.name, injection.target.id):
                continue
            if syscalls is not None and not set(syscalls) & set(injection.fault.syscalls):
                continue
            if run not in (None, injection.run) or fault_id not in (None, injection.id):
                continue
            self._end(injection, reason)
            ended.append(injection)
        for injection in ended:
            if not self.active_on(injection.target.name):
                self._check_released(injection)
        return [injection.to_json() for injection in ended]

    def wait_for_newcomers(self, seconds: float) -> bool:
        """Wait until a process has come to a container with a fault that `tick` has not met, or for so many seconds at most.

        Children of those that are traced come with their tracer, and need nobody.

        Returns:
            whether one has come.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _LOOKS_EVERY))
            for name, target in self._targets_by_name().items():
                if any(map(self._is_free, target.newcomers(self._met.get(name, ())))):
                    return True
        return False

    def tick(self) -> None:
        """End what is over, attach to what has arrived, see to the tracers. To be called several times a second."""
        for injection in [injection for injection in self._injections if injection.active]:
            over = "its duration was over" if time.monotonic() >= injection.deadline else None
            over = over or injection.session.ended().get(injection.key) or self._abort_reason(injection)
            if over:
                self._end(injection, over)
        met = {}
        for name, target in self._targets_by_name().items():
            injections = self.active_on(name)
            try:
                pids = target.pids()
                met[name] = frozenset(pids)
                self._follow(injections, pids)
            except (AgentError, OSError) as error:  # no reason to leave the other containers alone
                for injection in injections:
                    injection.warnings = list(dict.fromkeys([*injection.foreseen, f"it is not being followed: {error}"]))
        self._met = met
        ended = [injection for injection in self._injections if not injection.active]
        for injection in ended[:-_HISTORY]:
            self._injections.remove(injection)

    def active_on(self, container: str) -> list[Injection]:
        """The active faults of a container."""
        return [injection for injection in self._injections if injection.active and injection.target.name == container]

    def targets(self) -> list[Target]:
        """The containers that active faults are on."""
        return [injection.target for injection in list(self._injections) if injection.active]

    def _targets_by_name(self) -> dict[str, Target]:
        return {target.name: target for target in self.targets()}

    def replace_target(self, target: Target) -> None:
        """Have the active faults of a container's name on this one, from the next tick on."""
        for injection in self._injections:
            if injection.active and injection.target.name == target.name:
                injection.target = target

    def status(self) -> list[dict[str, Any]]:
        """All faults, ended ones included, oldest first."""
        return [injection.to_json() for injection in self._injections]

    def restarts(self) -> dict[tuple[str], float]:
        """Tracers that had to be replaced, by container."""
        sessions = {(injection.target.name, id(injection.session)): injection.session for injection in self._injections}
        total: Counter[tuple[str]] = Counter()
        for (name, _), session in sessions.items():
            total[(name,)] += session.restarts.total
        return dict(total)

    @contextlib.contextmanager
    def tried(self, injector: str, target: Target, fault: Fault, pid: int) -> Iterator[None]:
        """Have a fault on one process of a target, for as long as this lasts; nobody counts what it does.

        Raises:
            AgentError: it could not be attached.
        """
        session, _ = self._open(injector, target, fault, [pid], lambda calls: None)
        try:
            session.add(next(self._keys), fault, fault.duration / 1e6, 0)
            for reason in session.attach([pid], _ATTACH_WITHIN).values():
                raise AgentError(reason)
            yield
        finally:
            session.stop()

    def choice(self, target: Target, fault: Fault, pids: list[int]) -> tuple[str, str]:
        """The injector that `auto` takes for a fault on processes, and why it is not the cheapest one, if it is not."""
        session, why = self._open("auto", target, fault, pids, lambda calls: None)
        session.stop()
        return session.injector, why

    def _open(
        self, injector: str, target: Target, fault: Fault, pids: list[int], on_calls: OnCalls | None = None
    ) -> tuple[Session, str]:
        """Begin a session by an injector; for `auto` the second result says why it is not the cheapest one."""
        on_calls = on_calls or (lambda calls: self._on_calls(target.name, calls))
        why = ""
        if injector == "strace":
            return StraceSession(on_calls, self._spawner, self._proc), why
        if injector in ("auto", "uprobe"):
            try:
                self.arming.prepare()
                cgroups = self._cgroups_of(target)
                if not cgroups():
                    raise AgentError("the container has no control group of its own in the unified hierarchy, by which it is known")
                cannot = uprobe_cannot(fault, self._arch)
                why = f"it cannot do {cannot}" if cannot else self.arming.cannot(pids)
                if not why or injector == "uprobe":
                    self.arming.try_out(pids, [self._numbers[name] for name in fault.syscalls])
                    session = UprobeSession(self._numbers, on_calls, self._spawner, self._marks, self.arming, cgroups, self._proc)
                    return session, why
            except AgentError as error:
                if injector == "uprobe":
                    raise
                why = str(error)
            why = f"it is injected by ptrace, which stops every system call, and not by uprobes: {why}"
        return PtraceSession(self._numbers, on_calls, self._spawner, self._marks, self._proc), why

    def _cgroups_of(self, target: Target) -> Callable[[], list[int]]:
        """What tells the control groups of a container now, be it one that was made anew under its name."""

        def now() -> list[int]:
            active = self.active_on(target.name)
            return (active[0].target if active else target).cgroup.ids()

        return now

    def _follow(self, injections: list[Injection], pids: list[int]) -> None:
        """Attach the faults of one container to those of its processes that have come, and replace tracers that are not well."""
        session = injections[0].session
        given_up = session.supervise(pids)
        if given_up:
            for injection in injections:
                self._end(injection, given_up)
            return
        first = injections[0]
        left = {pid: why for pid, why in first.not_attached.items() if pid in pids and not self._is_wholly_attached(session, pid)}
        not_attached = {pid: why for pid, why in left.items() if pid not in first.traced_by_others}
        if not_attached and time.monotonic() >= first.next_try:  # the machine may have been too busy
            not_attached = {pid: why for pid, why in not_attached.items() if not self._is_free(pid)}
            first.next_try = time.monotonic() + first.pause
            first.pause = min(2 * first.pause, _TRIED_AGAIN_AFTER_MOST)
        newcomers = [pid for pid in pids if pid not in not_attached and self._is_free(pid)]
        if newcomers:
            not_attached.update(session.attach(newcomers, _NEWCOMERS_WITHIN))
        traced = {pid: why for pid in pids if (why := self._why_traced(session, pid))}
        for injection in injections:
            injection.not_attached = not_attached | traced
            injection.traced_by_others = set(traced)
            self._look_at(injection)

    def _look_at(self, injection: Injection) -> None:
        """See what there is to warn of now."""
        self._look_at_coverage(injection)
        now = [*injection.session.warnings(), *self._never_made(injection), *_uncovered(injection.coverage)]
        injection.warnings = list(dict.fromkeys([*injection.foreseen, *now]))

    def _why_traced(self, session: Session, pid: int) -> str:
        """Who else traces a process that has come; empty if nobody does."""
        tracer = procfs.tracer_of(self._proc, pid, pid)
        if not tracer or session.is_attached(pid):
            return ""
        return traced_by(self._proc, pid, tracer)

    def _abort_reason(self, injection: Injection) -> str | None:
        requests = self._requests(injection.target.name) if injection.abort else None
        return injection.abort.feed(time.monotonic(), requests) if injection.abort and requests else None

    def _end(self, injection: Injection, reason: str) -> None:
        others = [one for one in self.active_on(injection.target.name) if one is not injection]
        with contextlib.suppress(OSError):  # it ends whatever there is to be said of it
            self._look_at(injection)
        if others:
            injection.session.remove(injection.key)
        else:
            injection.session.stop()
            injection.warnings = list(dict.fromkeys([*injection.warnings, *injection.session.untold()]))
        injection.ended, injection.reason = time.time(), reason
        self._on_change(injection.target.name)

    def _check_released(self, injection: Injection) -> None:
        end = time.monotonic() + _RELEASED_WITHIN
        while held := [pid for pid in injection.target.pids() if self._tracers(pid) - {0, None}]:
            if time.monotonic() > end:
                raise AgentError(f"the fault on container {injection.target.name!r} has ended, but {held} are still traced")
            time.sleep(0.005)

    def _tracers(self, pid: int) -> set[int | None]:
        return {procfs.tracer_of(self._proc, pid, tid) for tid in procfs.threads(self._proc, pid)}

    def _is_free(self, pid: int) -> bool:
        """Whether nobody traces a process. Threads are traced with the one that made them, so the first tells of all."""
        first = procfs.tracer_of(self._proc, pid, pid)
        return 0 in self._tracers(pid) if first is None else first == 0

    def _is_wholly_attached(self, session: Session, pid: int) -> bool:
        """Whether all threads of a process have the same tracer, and that is one of the session's."""
        return session.is_attached(pid) and len(self._tracers(pid) - {None}) <= 1

    def _refuse_twice(self, target: Target, fault: Fault, injector: str, running: list[Injection]) -> None:
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

    def _refuse_traced(self, target: Target, pids: list[int]) -> None:
        for pid in pids:
            for tracer in self._tracers(pid) - {0, None}:
                raise AgentError(
                    f"process {pid} of container {target.name!r} is being traced already, by process {tracer} "
                    f"({procfs.command_name(self._proc, tracer or 0)}): a thread can have only one tracer, end that one first"
                )

    def _warnings(self, target: Target, fault: Fault, pids: list[int]) -> list[str]:
        using = [pid for pid in pids if procfs.uses_io_uring(self._proc, pid)]
        result = [
            f"process {pid} ({procfs.command_name(self._proc, pid)}) uses io_uring: what it does by it is no system call, "
            "and is not hit"
            for pid in using
        ]
        return result + _unmade(fault, self._calls(target.name) or {})

    def _made_by(self, name: str) -> Counter[str] | None:
        """All calls that a container has made so far, those that never entered the kernel included; None if nobody counts."""
        counted = self._calls(name)
        return None if counted is None else Counter(counted) + self._ledger.called_by(name)

    def _look_at_coverage(self, injection: Injection) -> None:
        probed = injection.session.probed()
        if probed is None or injection.before is None:
            return  # it sees every call anyway, or nobody counted: spare the reading of the kernel's counts
        made = self._made_by(injection.target.name)
        if made is not None:
            injection.coverage = {
                name: {"made": made[name] - injection.before[name], "probed": probed.get(name, 0)}
                for name in injection.fault.syscalls
                if made[name] > injection.before[name]
            }

    def _never_made(self, injection: Injection) -> list[str]:
        """What the first seconds have shown of a fault that never fired."""
        if injection.fired or injection.fault.placebo or time.time() - injection.begins < _FIRST_SECONDS:
            return []
        return _unmade(injection.fault, injection.session.seen() or self._calls(injection.target.name) or {})

    def _on_calls(self, name: str, calls: Calls) -> None:
        if calls.effects:
            with self._counting:  # several tracers of one fault may tell of their calls at once
                for injection in reversed(self._injections):
                    if injection.key == calls.key:
                        injection.fired[calls.syscall] += calls.count
                        break
            self._ledger.injected(name, calls.syscall, "+".join(calls.effects), calls.count)
        if calls.returned and calls.replaced:
            # They never entered the kernel, so the kernel has neither counted nor timed them.
            self._ledger.called(name, calls.syscall, calls.error, calls.count)
        if calls.returned and calls.timed:
            self._ledger.took(name, calls.syscall, calls.durations)


def timed_by_call(injections: list[Injection]) -> tuple[str, ...]:
    """The system calls whose every duration only the tracer knows."""
    return tuple(
        name
        for injection in injections
        if injection.session.timing == "by call" and delays(injection.fault)
        for name in injection.fault.syscalls
    )


def timed_by_thread(injections: list[Injection]) -> bool:
    """Whether there are calls that a tracer times, which the threads that make them are marked for."""
    return any(injection.session.timing == "by thread" and delays(injection.fault) for injection in injections)


def delays(fault: Fault) -> bool:
    """Whether a fault holds calls that are made all the same: their durations are what no tracepoint sees."""
    return bool(fault.delay_enter or fault.delay_exit) and not fault.placebo


def _uncovered(coverage: dict[str, dict[str, int]]) -> list[str]:
    """A warning for each system call that was made in another way than by a place that has a probe."""
    return [
        f"not every call of {name} comes by a place in a program or library that can have a probe: the others are not hit"
        for name, calls in coverage.items()
        if calls["made"] - calls["probed"] > max(_FEW, calls["made"] * _SMALL_SHARE)
    ]


def _unmade(fault: Fault, calls: dict[str, int]) -> list[str]:
    """A warning if a container was seen to make relatives of the faulted calls, and never those."""
    if any(calls.get(name) for name in fault.syscalls):
        return []
    instead = sorted({name for call in fault.syscalls for name in siblings(call) if calls.get(name)})
    if not instead:
        return []
    return [f"the container has not been seen to call {', '.join(fault.syscalls)}: it calls {', '.join(instead)} instead"]
