"""The monitoring of containers: it attaches monitors to targets and follows restarts."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from chaosorca.agent import timeouts
from chaosorca.agent.histogram import Histogram
from chaosorca.agent.loops import surviving
from chaosorca.agent.monitors.http import HttpMonitor
from chaosorca.agent.monitors.io_source import PROC
from chaosorca.agent.monitors.requests import Requests
from chaosorca.agent.monitors.resources import ResourceMonitor
from chaosorca.agent.monitors.syscalls import SyscallMonitor
from chaosorca.agent.targets.target import Target
from chaosorca.model.errors import AgentError, InvalidArgument

MONITORS = ("syscalls", "http", "resources")
_log = logging.getLogger("chaosorca.agent")


class Monitoring:
    """Attaches monitors to targets and keeps them attached."""

    def __init__(
        self,
        syscalls: SyscallMonitor,
        http: HttpMonitor,
        resources: ResourceMonitor,
        admit: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Arguments:
            syscalls, http, resources: the monitors.
            admit: a function that raises an error while no further monitoring may start.
        """
        self.syscalls, self.http, self.resources = syscalls, http, resources
        self._admit = admit
        self.changing = threading.RLock()
        """Guards changes of the three tables below. A scrape copies the tables without the lock."""
        self._targets: dict[str, Target] = {}
        self._monitors: dict[str, set[str]] = {}
        self._problems: dict[str, list[str]] = {}
        # `_timing_lock` guards `_timing`. It is separate from `changing`, so that the end of a fault never waits for `changing`.
        self._timing_lock = threading.Lock()
        self._timing: dict[str, tuple[tuple[str, ...], bool]] = {}

    def start(self, target: Target, monitors: list[str]) -> dict[str, Any]:
        """Start to monitor a container, or add monitors to a container that is already monitored.

        Arguments:
            target: the container.
            monitors: some of `MONITORS`.

        Returns:
            the container's entry of `status`, with `new`: whether the container was not monitored before.

        Raises:
            InvalidArgument: a monitor does not exist.
            AgentError: none of the monitors can be attached.
        """
        unknown = [monitor for monitor in monitors if monitor not in MONITORS]
        if unknown:
            raise InvalidArgument(f"there is no monitor {unknown[0]!r}: there are {', '.join(MONITORS)}")
        unprepared = self._prepare(monitors)
        with self.changing:
            self._admit()
            is_new = target.name not in self._targets
            wanted = {*monitors, *self._monitors.get(target.name, ())}
            try:
                refused = self._attach(target, wanted)
                if refused.keys() >= set(monitors):
                    raise AgentError("; ".join(refused[monitor] for monitor in monitors))
                self._apply_timing(target.name)
            except BaseException:
                if is_new:
                    self.stop(target.name)
                raise
            _warn_of_refused(target, wanted, refused)
            wanted -= refused.keys()
            if "resources" in wanted:
                self._warn_of_resources(target, refused.get("syscalls") or unprepared)
            _warn_of_network(target, wanted)
            self._targets[target.name] = target
            self._monitors[target.name] = wanted
            return {**self._describe(target), "new": is_new}

    def stop(self, container: str) -> bool:
        """Stop monitoring a container.

        Arguments:
            container: its name.

        Returns:
            whether it was monitored.
        """
        with self.changing:
            target = self._targets.pop(container, None)
            self._monitors.pop(container, None)
            self._problems.pop(container, None)
            self.syscalls.detach(container)
            self.http.detach(container)
            self.resources.forget(container)
            return target is not None

    def run(self) -> None:
        """Follow the monitored containers until the process ends."""
        while True:
            time.sleep(timeouts.TARGETS_POLLED_EVERY)
            with surviving("monitors"):
                with self.changing:
                    for target in self._targets.values():
                        self._follow(target)
                self.http.give_up_on_old()

    def replace_target(self, target: Target) -> None:
        """Replace the monitored target of the same name, if there is one. The series of this container name continue."""
        with self.changing:
            if target.name in self._targets:
                _warn_of_network(target, self._monitors[target.name])
                self._targets[target.name] = target
                self._follow(target)

    def status(self) -> list[dict[str, Any]]:
        """Return the monitored containers, with their monitors and warnings."""
        with self.changing:
            return [self._describe(target) for target in self._targets.values()]

    def targets(self) -> list[Target]:
        """Return the monitored containers."""
        return list(self._targets.values())

    def monitors(self) -> dict[str, set[str]]:
        """Return the monitors of each container, including containers that are down."""
        return dict(self._monitors)

    def is_monitored(self, container: str) -> bool:
        """Tell whether a container of this name is monitored."""
        return container in self._targets

    def marks(self) -> int | None:
        """Return the id of the map in which a tracer marks the threads whose calls it times; None while there is no such map."""
        return self.syscalls.marks()

    def leave_timing_to_tracer(self, container: str, by_call: tuple[str, ...], by_thread: bool) -> None:
        """Let the tracer time some of a container's calls. The setting also applies if monitoring starts later.

        Arguments:
            container: its name.
            by_call: the system calls that the tracer always times.
            by_thread: whether the tracer times calls of threads that it marks.
        """
        with self._timing_lock:
            if by_call or by_thread:
                self._timing[container] = (by_call, by_thread)
            else:
                self._timing.pop(container, None)
            self.syscalls.leave_timing_to_tracer(container, by_call, by_thread)

    def calls_of(self, container: str) -> dict[str, int] | None:
        """Return how often a container made each system call; None if its calls are not monitored."""
        if "syscalls" not in self._monitors.get(container, ()):
            return None
        calls: Counter[str] = Counter()
        for (name, syscall, _error), count in self.syscalls.counts().items():
            if name == container:
                calls[syscall] += count
        return dict(calls)

    def requests_to(self, container: str) -> Requests | None:
        """Return the HTTP requests to a container so far; None if its HTTP is not monitored."""
        if "http" not in self._monitors.get(container, ()):
            return None
        http, by_code = self.http.figures(), Counter[str]()
        for (name, role, _method, code, _tls), count in http.counts.items():
            if (name, role) == (container, "server"):
                by_code[code] += count
        none = Histogram()
        latencies = sum((http.durations.get((container, "server", tls), none) for tls in ("false", "true")), none)
        return Requests(dict(by_code), latencies)

    def _prepare(self, monitors: list[str]) -> str:
        """Load the programs. No lock is held, so that scrapes continue meanwhile.

        Returns:
            why system calls cannot be monitored; empty if they can. `_attach` reports errors of the other monitors.
        """
        unprepared = ""
        if {"syscalls", "resources"} & set(monitors):
            try:
                self.syscalls.prepare()
            except AgentError as error:
                unprepared = str(error)
        if "http" in monitors:
            with contextlib.suppress(AgentError):
                self.http.prepare()
        if "resources" in monitors:
            self.resources.io_source()
        return unprepared

    def _attach(self, target: Target, wanted: set[str]) -> dict[str, str]:
        """Attach monitors to a target. For each monitor that cannot be attached, return the reason."""
        refused: dict[str, str] = {}
        # The program for system calls also counts the I/O of ended threads. The resource monitor needs this figure.
        if "syscalls" in wanted or ("resources" in wanted and self.syscalls.program() is not None):
            try:
                self.syscalls.attach(target, counting="syscalls" in wanted)
            except AgentError as error:
                refused["syscalls"] = str(error)
        if "http" in wanted:
            try:
                self.http.attach(target)
            except AgentError as error:
                refused["http"] = str(error)
        return refused

    def _follow(self, target: Target) -> None:
        """Re-attach a container that was restarted, and suspend one that has ended.

        A restart gives the container new control groups and a new network namespace. A removed container stays in the tables:
        its series continue when another container takes the name at any later time.
        """
        if not target.cgroup.exists():
            self.syscalls.suspend(target.name)
            self.http.suspend(target.name)
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
        # The next round tries again to attach a refused monitor.
        self._problems[target.name] = [why for monitor, why in refused.items() if monitor in wanted]

    def _apply_timing(self, container: str) -> None:
        with self._timing_lock:
            by_call, by_thread = self._timing.get(container, ((), False))
            self.syscalls.leave_timing_to_tracer(container, by_call, by_thread)

    def _warn_of_resources(self, target: Target, no_syscalls: str) -> None:
        target.warnings += self.resources.warnings(target)
        if self.resources.source(target) == PROC and target.name not in self.syscalls.ended_io():
            why = no_syscalls or "this kernel has no BTF"
            target.warnings.append(f"the IO of a `docker exec` process is lost when the process ends: {why}")

    def _describe(self, target: Target) -> dict[str, Any]:
        return {
            "name": target.name,
            "id": target.id,
            "running": target.cgroup.exists(),
            "monitors": sorted(self._monitors[target.name]),
            "warnings": target.warnings + self._problems.get(target.name, []) + self.http.warnings(target.name),
        }


def _warn_of_refused(target: Target, wanted: set[str], refused: dict[str, str]) -> None:
    target.warnings += [why for monitor, why in refused.items() if monitor in wanted and why not in target.warnings]


def _warn_of_network(target: Target, monitors: set[str]) -> None:
    if target.host_network and "resources" in monitors:
        target.warnings.append("it uses the host's network: its network figures cannot be separated, and are left out")
    if target.shared_network:
        target.warnings.append("it shares its network with another container: HTTP and network figures are those of both")
