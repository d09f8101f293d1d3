"""The agent: everything that it can be asked to do, and the clock that keeps it up to date."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from chaosorca import __version__
from chaosorca.agent.code.binaries import give_back_memory
from chaosorca.agent.doctor.doctor import Doctor
from chaosorca.agent.export.cost import own_cost
from chaosorca.agent.export.snapshot import Snapshot
from chaosorca.agent.faults.abort import Requests
from chaosorca.agent.faults.faults import Faults, timed_by_call, timed_by_thread
from chaosorca.agent.faults.ledger import Ledger
from chaosorca.agent.histogram import Histogram
from chaosorca.agent.monitors.http import HttpMonitor
from chaosorca.agent.monitors.io_source import PROC
from chaosorca.agent.monitors.resources import ResourceMonitor
from chaosorca.agent.monitors.syscalls import SyscallMonitor
from chaosorca.agent.targets.engine_events import EngineEvents
from chaosorca.agent.targets.target import Target, find_target, own_cgroup
from chaosorca.model.contract import AGENT
from chaosorca.model.errors import AgentError, InvalidArgument
from chaosorca.model.fault import Fault

MONITORS = ("syscalls", "http", "resources")
_TICK = 0.1
_FOLLOWS_EVERY = 0.2
_RETIRED_FOR = 15.0
MAP_LABELS = {
    "monitored_cgroups": "watched_cgroups",
    "blocked": "deaf",
    "syscall_stops": "watched",
    "tls_unseen": "untold",
    "unprobed": "strangers",
}
"""Values of the label `map` are public, so the metrics keep the names that dashboards select by."""
_log = logging.getLogger("chaosorca.agent")


class Agent:
    """One per Docker host. Its public methods up to `retire` are what the server offers; each returns JSON."""

    def __init__(self, arch: str) -> None:
        self._lock = threading.RLock()  # of targets and monitors
        self._faults_lock = threading.RLock()  # of its own, so that no fault outlasts its duration because a program is loaded
        self._reading = (
            threading.Lock()
        )  # one container's programs at a time: that takes memory, and processors from the containers
        self._retired_at = -_RETIRED_FOR
        self._ledger = Ledger()
        self._own = own_cgroup()
        self._syscalls = SyscallMonitor(arch)
        self._http = HttpMonitor()
        self._resources = ResourceMonitor(self._syscalls.ended_io)
        self._faults = Faults(arch, self._ledger, self._fault_changed, self._requests_to, self._calls_of, self._syscalls.marks)
        self._targets: dict[str, Target] = {}
        self._monitors: dict[str, set[str]] = {}
        self._troubles: dict[str, list[str]] = {}
        self.names = EngineEvents(self._followed, self._replace_target)
        self._doctor = Doctor(arch, self._syscalls, self._http, self._faults, self._resources.io_source, self.names.trouble)

    def start_monitoring(self, container: dict[str, Any], monitors: list[str]) -> dict[str, Any]:
        """Begin to monitor a container, or add monitors to those that it has.

        Arguments:
            container: its `name`, `id` and first process's `pid`.
            monitors: some of `MONITORS`.
        """
        unknown = [monitor for monitor in monitors if monitor not in MONITORS]
        if unknown:
            raise InvalidArgument(f"there is no monitor {unknown[0]!r}: there are {', '.join(MONITORS)}")
        self._look_at_code(container)
        # Before any lock: loading takes its time, and scrapes go on meanwhile. What is refused is told when it is attached.
        unprepared = ""
        if {"syscalls", "resources"} & set(monitors):
            try:
                self._syscalls.prepare()
            except AgentError as error:
                unprepared = str(error)
        if "http" in monitors:
            with contextlib.suppress(AgentError):
                self._http.prepare()
        if "resources" in monitors:
            self._resources.io_source()
        with self._lock:
            self._refuse_if_retired()
            target = find_target(container)
            is_new = target.name not in self._targets
            if is_new and not self._faults.active_on(target.name):
                self._ledger.forget(target.name)
            wanted = {*monitors, *self._monitors.get(target.name, ())}
            try:
                refused = self._attach(target, wanted)
                if refused.keys() >= set(monitors):
                    raise AgentError("; ".join(refused[monitor] for monitor in monitors))
                self._fault_changed(target.name)
            except BaseException:
                if is_new:
                    self.stop_monitoring(target.name)
                raise
            _warn_of_refused(target, wanted, refused)
            wanted -= refused.keys()
            if "resources" in wanted:
                target.warnings += self._resources.warnings(target)
                if self._resources.source(target) == PROC and target.name not in self._syscalls.ended_io():
                    why = refused.get("syscalls") or unprepared or "this kernel has no BTF"
                    target.warnings.append(f"what a process of `docker exec` read and wrote is lost when it ends: {why}")
            _warn_of_network(target, wanted)
            self._targets[target.name] = target
            self._monitors[target.name] = wanted
            return {**(told := self._describe(target)), "warnings": told["warnings"] + self.names.warnings(), "new": is_new}

    def stop_monitoring(self, container: str) -> dict[str, Any]:
        """Stop monitoring a container, by name; success if nobody does."""
        with self._lock:
            target = self._targets.pop(container, None)
            self._monitors.pop(container, None)
            self._troubles.pop(container, None)
            self._syscalls.detach(container)
            self._http.detach(container)
            self._resources.forget(container)
            if not self._faults.active_on(container):
                self._ledger.forget(container)
            return {"stopped": [container] if target else []}

    def start_fault(
        self, container: dict[str, Any], fault: dict[str, Any], fault_id: str, run: str, injector: str, seed: int = 0
    ) -> dict[str, Any]:
        """Start a fault on all processes of a container.

        Arguments:
            container: its `name`, `id` and first process's `pid`.
            fault: a `Fault`, as its `to_json` gives it.
            fault_id, run: its own id, and that of the run that it belongs to.
            injector: `auto`, `uprobe`, `ptrace` or `strace`.
            seed: what its random decisions begin with.
        """
        with self._faults_lock:
            self._refuse_if_retired()
            started = self._faults.start(find_target(container), Fault.from_json(fault), fault_id, run, injector, seed)
        return {**started, "warnings": started["warnings"] + self.names.warnings()}

    def stop_fault(
        self,
        container: str | None = None,
        syscalls: list[str] | None = None,
        run: str | None = None,
        fault_id: str | None = None,
    ) -> dict[str, Any]:
        """End the active faults of a container (name or id), with one of some system calls, of a run, of an id; of none: all."""
        with self._faults_lock:
            return {"stopped": self._faults.stop("it was stopped", container, syscalls, run, fault_id)}

    def status(self) -> dict[str, Any]:
        """Everything that is watched, and all faults."""
        with self._lock:
            return {
                "version": __version__,
                "targets": [self._describe(target) for target in self._targets.values()],
                "faults": self._faults.status(),
                **self.names.status(),
            }

    def examine(self) -> list[dict[str, Any]]:
        """What can be done on this host: findings, as `Finding.to_json` gives them."""
        own = Target(AGENT, "", self._own) if self._own else None
        return [finding.to_json() for finding in self._doctor.examine(own)]

    def retire(self) -> dict[str, Any]:
        """Refuse all further work if there is nothing to do, so that the agent can be removed without a race."""
        with self._lock, self._faults_lock:
            idle = not self._targets and not any(fault["active"] for fault in self._faults.status())
            if idle:
                self._retired_at = time.monotonic()
            return {"retired": idle}

    def _look_at_code(self, container: dict[str, Any]) -> None:
        """Read the programs of a container while it is being monitored, so that a fault need not wait for it."""

        def look() -> None:
            with self._reading, contextlib.suppress(AgentError, OSError):
                self._faults.arming.cannot(find_target(container).pids())
                give_back_memory()

        threading.Thread(target=look, name="reader", daemon=True).start()

    def prepare_faults(self) -> None:
        """Have ready what the first fault would have to wait for; who cannot have it is told when it is asked for."""
        with contextlib.suppress(AgentError):
            self._faults.arming.prepare()

    def shut_down(self) -> None:
        """End all faults; the kernel does the rest when the process ends."""
        with self._faults_lock:
            self._faults.stop("the agent was ended")

    def keep_faults_up(self) -> None:
        """Keep the clocks of faults, and have them on processes that come, until the process ends."""
        while True:
            with _surviving("newcomers"):
                self._faults.wait_for_newcomers(_TICK)
            with _surviving("faults"), self._faults_lock:
                self._faults.tick()

    def keep_monitors_up(self) -> None:
        """Follow the containers that are monitored until the process ends."""
        while True:
            time.sleep(_FOLLOWS_EVERY)
            with _surviving("monitors"):
                with self._lock:
                    for target in self._targets.values():
                        self._follow(target)
                self._http.give_up_on_old()

    def snapshot(self) -> Snapshot:
        """All figures now. Does not wait for anything that the agent is being asked to do."""
        # A container that is down for a moment keeps its counters: they go on when it comes back.
        monitors = dict(self._monitors)
        targets = [target for target in list(self._targets.values()) if target.cgroup.exists()]
        running = {target.name for target in targets}

        def of(monitor: str, values: dict[Any, Any]) -> dict[Any, Any]:
            return {key: value for key, value in values.items() if monitor in monitors.get(key[0], ())}

        own = own_cost(self._own, os.getpid())
        http = self._http.figures()
        found = {"syscalls": self._syscalls.program(), "uprobe": self._faults.arming.program()}
        programs = {name: program for name, program in found.items() if program is not None}
        calls, durations = self._syscalls.figures()
        return Snapshot(
            not_running=set(monitors) - running,
            monitored=sorted((name, monitor) for name in running for monitor in monitors.get(name, ())),
            syscalls=_sum(of("syscalls", calls), of("syscalls", self._ledger.calls())),
            syscall_durations=_sum(of("syscalls", durations), of("syscalls", self._ledger.durations())),
            http=of("http", http.counts),
            http_durations=of("http", http.durations),
            http_unparsed=of("http", http.unparsed),
            http_in_flight=of("http", http.in_flight),
            injected=dict(self._ledger.injections()),
            tracer_restarts=self._faults.restarts(),
            fault_calls=_coverage(self._faults.status()),
            fault_active={
                (fault["container"], fault["text"]): float(fault["active"])
                for fault in self._faults.status()
                if fault["active"] or fault["container"] in monitors
            },
            resources=self._resources.read([target for target in targets if "resources" in monitors.get(target.name, ())]),
            map_entries={
                (name, MAP_LABELS.get(table, table)): float(count)
                for name, program in programs.items()
                for table, count in program.entries_in_use().items()
            }
            | {("http", MAP_LABELS.get(table, table)): float(count) for table, count in http.entries.items()},
            dropped={(name,): float(programs[name].dropped()) if name in programs else 0.0 for name in found}
            | {("http",): float(http.dropped)},
            agent_cpu_seconds=own.cpu_seconds,
            agent_resident_bytes=own.resident_bytes,
        )

    def _attach(self, target: Target, wanted: set[str]) -> dict[str, str]:
        """Have the monitors watch a target; return why for those that cannot."""
        refused: dict[str, str] = {}
        # The resource monitor, too, wants the kernel's count of what ended threads had read and written.
        if "syscalls" in wanted or ("resources" in wanted and self._syscalls.program() is not None):
            try:
                self._syscalls.attach(target, counting="syscalls" in wanted)
            except AgentError as error:
                refused["syscalls"] = str(error)
        if "http" in wanted:
            try:
                self._http.attach(target)
            except AgentError as error:
                refused["http"] = str(error)
        return refused

    def _follow(self, target: Target) -> None:
        """A container that was restarted has new control groups and a new network namespace; one that has ended has none.

        One that was removed stays known all the same: between that and another's taking its name any time may pass, and its series
        are to go on then. It costs nothing but its entries, until somebody stops its monitoring.
        """
        if not target.cgroup.exists():
            self._syscalls.suspend(target.name)
            self._http.suspend(target.name)
            return
        wanted = self._monitors[target.name]
        try:
            refused = self._attach(target, wanted)
        except OSError:
            _log.debug("container %s is on its way down or up", target.name, exc_info=True)
            return
        if target.host_network and "http" in refused:
            _warn_of_refused(target, wanted, {"http": refused["http"]})
            wanted.discard("http")
        self._troubles[target.name] = [why for monitor, why in refused.items() if monitor in wanted]  # which is tried again

    def _followed(self) -> dict[str, set[str]]:
        """The ids of containers that are monitored or have a fault, by name."""
        ids: dict[str, set[str]] = {}
        for target in list(self._targets.values()) + self._faults.targets():
            ids.setdefault(target.name, set()).add(target.id)
        return ids

    def _replace_target(self, container: dict[str, Any]) -> None:
        """Go on with a container that was made anew under the name of another; its series go on, its faults are attached again."""
        target = find_target(container)
        with self._faults_lock:
            self._faults.replace_target(target)
        with self._lock:
            if target.name in self._targets:
                _warn_of_network(target, self._monitors[target.name])
                self._targets[target.name] = target
                self._follow(target)
        _log.info("container %s was made anew: it is %s now", target.name, target.id[:12])

    def _refuse_if_retired(self) -> None:
        # Whoever asked it to retire may have failed to remove it: it does not refuse for ever.
        if time.monotonic() - self._retired_at < _RETIRED_FOR:
            raise AgentError("the agent is being removed because it had nothing to do: try again")

    def _fault_changed(self, container: str) -> None:
        injections = self._faults.active_on(container)
        self._syscalls.leave_timing_to_tracer(container, timed_by_call(injections), timed_by_thread(injections))

    def _calls_of(self, container: str) -> dict[str, int] | None:
        if "syscalls" not in self._monitors.get(container, ()):
            return None
        calls: Counter[str] = Counter()
        for (name, syscall, _error), count in self._syscalls.counts().items():
            if name == container:
                calls[syscall] += count
        return dict(calls)

    def _requests_to(self, container: str) -> Requests | None:
        if "http" not in self._monitors.get(container, ()):
            return None
        http, by_code = self._http.figures(), Counter[str]()
        for (name, role, _method, code, _tls), count in http.counts.items():
            if (name, role) == (container, "server"):
                by_code[code] += count
        none = Histogram()
        latencies = sum((http.durations.get((container, "server", tls), none) for tls in ("false", "true")), none)
        return Requests(dict(by_code), latencies)

    def _describe(self, target: Target) -> dict[str, Any]:
        return {
            "name": target.name,
            "id": target.id,
            "running": target.cgroup.exists(),
            "monitors": sorted(self._monitors[target.name]),
            "warnings": target.warnings + self._troubles.get(target.name, []) + self._http.warnings(target.name),
        }


@contextlib.contextmanager
def _surviving(what: str) -> Iterator[None]:
    """Whatever goes wrong in one round of a clock is no reason to end it."""
    try:
        yield
    except Exception:
        _log.exception("keeping up: %s", what)


def _warn_of_refused(target: Target, wanted: set[str], refused: dict[str, str]) -> None:
    target.warnings += [why for monitor, why in refused.items() if monitor in wanted and why not in target.warnings]


def _warn_of_network(target: Target, monitors: set[str]) -> None:
    if target.host_network and "resources" in monitors:
        target.warnings.append("it is on the host's network: what it receives and transmits cannot be told, and is left out")
    if target.shared_network:
        target.warnings.append("it shares its network with another container: HTTP and network figures are those of both")


def _coverage(faults: list[dict[str, Any]]) -> dict[tuple[str, str, str], float]:
    """What the kernel, and what an injector's probes have seen of faulted system calls, by container and system call."""
    return {
        (fault["container"], syscall, seen_by): float(calls[kind])
        for fault in faults
        if fault["active"]
        for syscall, calls in fault["coverage"].items()
        for seen_by, kind in (("kernel", "made"), ("probes", "probed"))
    }


def _sum(kernel: dict[Any, Any], tracer: dict[Any, Any]) -> dict[Any, Any]:
    return {**kernel, **{key: kernel[key] + value if key in kernel else value for key, value in tracer.items()}}
