"""The faults of this engine: what is attached where, until when, and how often it fired."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chaosorca.agent import proc as procfs
from chaosorca.agent.abort import AbortWatch, Requests
from chaosorca.agent.ledger import Ledger
from chaosorca.agent.targets import Target
from chaosorca.agent.tracers.strace import Call, Strace, check_known
from chaosorca.model.abort import parse_abort_when
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import Fault
from chaosorca.model.syscalls import syscall_numbers
from chaosorca.model.when import when_matches

_ATTACH_WITHIN = 3.0
_NEWCOMERS_WITHIN = 0.5
_RELEASED_WITHIN = 2.0
_GRACE = 5.0
_HISTORY = 200


@dataclass
class Injection:
    """A fault on one container, from its start on; it stays known after its end."""

    id: str
    run: str
    target: Target
    fault: Fault
    begins: float
    deadline: float
    tracers: list[Strace] = field(default_factory=list)
    not_attached: dict[int, str] = field(default_factory=dict)
    abort: AbortWatch | None = None
    fired: Counter[str] = field(default_factory=Counter)
    made: Counter[tuple[int, str]] = field(default_factory=Counter)  # calls of each thread, where they have to be counted
    ended: float | None = None
    reason: str = ""

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.ended is None

    def to_json(self) -> dict[str, Any]:
        """The fault as `status` tells of it."""
        return {
            "fault": self.id,
            "run": self.run,
            "container": self.target.name,
            "container_id": self.target.id,
            "text": self.fault.text,
            "syscalls": list(self.fault.syscalls),
            "effects": list(self.fault.effects),
            "placebo": self.fault.placebo,
            "active": self.active,
            "begins": _iso(self.begins),
            "ends": _iso(self.begins + self.fault.duration / 1e6),
            "ended": _iso(self.ended) if self.ended is not None else None,
            "reason": self.reason,
            "abort_when": self.fault.abort_when,
            "injected": dict(self.fired),
            "not_attached": [{"pid": pid, "reason": why} for pid, why in sorted(self.not_attached.items())],
        }


class Faults:
    """Starts and ends faults, attaches them to processes that arrive later, and keeps their clocks."""

    def __init__(
        self,
        arch: str,
        ledger: Ledger,
        on_change: Callable[[str], None],
        requests: Callable[[str], Requests | None],
        proc: Path = Path("/proc"),
    ) -> None:
        """
        Arguments:
            arch: the machine, `x86_64` or `aarch64`.
            ledger: where tampered calls are written down.
            on_change: is told a container's name when its active fault is about to start, or has ended.
            requests: the HTTP requests to a container so far, None for one whose HTTP is not monitored.
            proc: the proc file system.
        """
        self._requests = requests
        self._numbers = syscall_numbers(arch)
        self._ledger = ledger
        self._on_change = on_change
        self._proc = proc
        self._injections: list[Injection] = []
        self._counting = threading.Lock()
        # A tracer has the kernel kill it when the thread that started it ends: this one never does before the agent.
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

    def start(self, target: Target, fault: Fault, fault_id: str, run: str) -> dict[str, Any]:
        """Attach a fault to all processes of a container, and wait until it is.

        Returns:
            what `start_fault` says of the container.

        Raises:
            AgentError: the container has a fault already or is being traced, or nothing could be attached.
        """
        check_known(fault.syscalls, self._numbers)
        running = self.active_on(target.name)
        if running:
            raise AgentError(
                f"container {target.name!r} has the fault {running.fault.text!r} already: "
                "stop it first, two faults on one container are not supported yet"
            )
        abort = AbortWatch(parse_abort_when(fault.abort_when)) if fault.abort_when else None
        if abort and self._requests(target.name) is None:
            raise AgentError(
                f"abort_when {fault.abort_when!r} needs the HTTP monitoring of container {target.name!r}: start it first"
            )
        pids = target.pids()
        if not pids:
            raise AgentError(f"container {target.name!r} has no process: start it again")
        self._refuse_traced(target, pids)
        now = time.time()
        injection = Injection(fault_id, run, target, fault, now, time.monotonic() + fault.duration / 1e6, abort=abort)
        self._injections.append(injection)
        self._on_change(target.name)
        try:
            self._attach(injection, pids, _ATTACH_WITHIN)
            if not injection.tracers:
                reasons = "; ".join(sorted(set(injection.not_attached.values())))
                raise AgentError(f"no process of container {target.name!r} could be attached: {reasons}")
        except BaseException:
            self._end(injection, "it could not be attached")
            self._injections.remove(injection)
            raise
        attached = [pid for pid in pids if pid not in injection.not_attached]
        record = injection.to_json()
        return {
            **{key: record[key] for key in ("fault", "text", "syscalls", "effects", "begins", "ends", "not_attached")},
            "name": target.name,
            "id": target.id,
            "attached": len(attached),
        }

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
            self._check_released(injection)
        return [injection.to_json() for injection in ended]

    def tick(self) -> None:
        """End what is over, attach to what has arrived. To be called several times a second."""
        for injection in [injection for injection in self._injections if injection.active]:
            if time.monotonic() >= injection.deadline:
                self._end(injection, "its duration was over")
                continue
            injection.tracers = [tracer for tracer in injection.tracers if tracer.alive()]
            reason = self._abort_reason(injection)
            if reason:
                self._end(injection, reason)
                continue
            pids = injection.target.pids()
            injection.not_attached = {pid: why for pid, why in injection.not_attached.items() if pid in pids}
            newcomers = [pid for pid in pids if self._is_free(pid) and pid not in injection.not_attached]
            if newcomers:
                self._attach(injection, newcomers, _NEWCOMERS_WITHIN)
        ended = [injection for injection in self._injections if not injection.active]
        for injection in ended[:-_HISTORY]:
            self._injections.remove(injection)

    def active_on(self, container: str) -> Injection | None:
        """The active fault of a container."""
        return next((i for i in self._injections if i.active and i.target.name == container), None)

    def status(self) -> list[dict[str, Any]]:
        """All faults, ended ones included, oldest first."""
        return [injection.to_json() for injection in self._injections]

    def _attach(self, injection: Injection, pids: list[int], within: float) -> None:
        left = injection.deadline - time.monotonic() + _GRACE
        tracer = self._spawner.submit(
            Strace, injection.fault, pids, left, lambda call: self._on_call(injection, call), self._proc
        ).result()
        injection.tracers.append(tracer)
        missing = tracer.wait_attached(within)
        injection.not_attached.update(missing)
        if not tracer.alive() or len(missing) == len(pids):
            injection.tracers.remove(tracer)
            tracer.stop()

    def _abort_reason(self, injection: Injection) -> str | None:
        requests = self._requests(injection.target.name) if injection.abort else None
        return injection.abort.feed(time.monotonic(), requests) if injection.abort and requests else None

    def _end(self, injection: Injection, reason: str) -> None:
        for tracer in injection.tracers:
            tracer.stop()
        injection.tracers = []
        injection.ended, injection.reason = time.time(), reason
        self._on_change(injection.target.name)

    def _check_released(self, injection: Injection) -> None:
        end = time.monotonic() + _RELEASED_WITHIN
        while held := [pid for pid in injection.target.pids() if not self._is_free(pid)]:
            if time.monotonic() > end:
                raise AgentError(f"the fault on container {injection.target.name!r} has ended, but {held} are still traced")
            time.sleep(0.005)

    def _is_free(self, pid: int) -> bool:
        return not any(procfs.tracer_of(self._proc, pid, tid) for tid in procfs.threads(self._proc, pid))

    def _refuse_traced(self, target: Target, pids: list[int]) -> None:
        for pid in pids:
            for tid in procfs.threads(self._proc, pid):
                tracer = procfs.tracer_of(self._proc, pid, tid)
                if tracer:
                    raise AgentError(
                        f"process {pid} of container {target.name!r} is being traced already, by process {tracer} "
                        f"({procfs.command_name(self._proc, tracer)}): a thread can have only one tracer, end that one first"
                    )

    def _on_call(self, injection: Injection, call: Call) -> None:
        name, fault = injection.target.name, injection.fault
        if self._is_tampered(injection, call):
            with self._counting:  # several tracers of one fault tell of their calls at once
                injection.fired[call.syscall] += 1
            self._ledger.injected(name, call.syscall, "+".join(fault.effects))
        if not call.returned:
            return
        seconds = call.seconds + (fault.delay_exit or 0) / 1e6 * call.delayed
        if call.injected:
            # It never entered the kernel, so the kernel has neither counted nor timed it.
            self._ledger.call(name, call.syscall, call.error)
            self._ledger.duration(name, call.syscall, seconds)
        elif timed_by_tracer(fault):
            self._ledger.duration(name, call.syscall, seconds)

    def _is_tampered(self, injection: Injection, call: Call) -> bool:
        """Whether the fault has acted on a call. strace marks what it does to calls, but not the signals that it sends."""
        if injection.fault.effects != ("signal",) or injection.fault.placebo:
            return call.injected or call.delayed
        with self._counting:
            injection.made[call.thread, call.syscall] += 1
            return when_matches(injection.fault.when, injection.made[call.thread, call.syscall])


def timed_by_tracer(fault: Fault) -> tuple[str, ...]:
    """The system calls whose durations only the tracer knows: those that are delayed and still made."""
    return fault.syscalls if (fault.delay_enter or fault.delay_exit) and not fault.placebo else ()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
