"""The agent, with all operations that clients can request."""

from __future__ import annotations

import time
from typing import Any

from chaosorca import __version__
from chaosorca.agent import timeouts
from chaosorca.agent.doctor.doctor import Doctor
from chaosorca.agent.export.collect import Collector
from chaosorca.agent.faults.choice import Choice
from chaosorca.agent.faults.faults import Faults
from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.agent.monitors.monitoring import Monitoring
from chaosorca.agent.targets.engine_events import EngineEvents
from chaosorca.agent.targets.target import Target, find_target
from chaosorca.model.contract import AGENT
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import Fault


class Retirement:
    """The state of an agent that is about to be removed because it has nothing to do.

    This state ends after a while, since the removal may fail.
    """

    def __init__(self) -> None:
        self._since = -timeouts.RETIRED_FOR

    def begin(self) -> None:
        """Retire now."""
        self._since = time.monotonic()

    def admit(self) -> None:
        """Raise an error if the agent is retired.

        Raises:
            AgentError: the agent is retired.
        """
        if time.monotonic() - self._since < timeouts.RETIRED_FOR:
            raise AgentError("the agent is being removed because it had nothing to do: try again")


class Agent:
    """The facade of the agent's parts. Each public method is an operation of the server and returns JSON."""

    def __init__(
        self,
        monitoring: Monitoring,
        faults: Faults,
        choice: Choice,
        collector: Collector,
        events: EngineEvents,
        doctor: Doctor,
        retirement: Retirement,
        own: Cgroup | None,
    ) -> None:
        """
        Arguments:
            monitoring, faults, choice, collector, events, doctor, retirement: the agent's parts.
            own: the agent's control group, if it has one.
        """
        self._monitoring = monitoring
        self._faults = faults
        self._choice = choice
        self._collector = collector
        self._events = events
        self._doctor = doctor
        self._retirement = retirement
        self._own = own

    def start_monitoring(self, container: dict[str, Any], monitors: list[str]) -> dict[str, Any]:
        """Start monitoring a container, or add monitors to a container that is already monitored.

        Arguments:
            container: its `name`, `id` and first process's `pid`.
            monitors: some of `syscalls`, `http`, `resources`.
        """
        target = find_target(container)
        if not self._monitoring.is_monitored(target.name):
            self._faults.forget_counts(target.name)
        self._choice.read_ahead(target)
        started = self._monitoring.start(target, monitors)
        return {**started, "warnings": started["warnings"] + self._events.warnings()}

    def stop_monitoring(self, container: str) -> dict[str, Any]:
        """Stop monitoring the container with this name. It is not an error if no such container is monitored."""
        stopped = self._monitoring.stop(container)
        self._faults.forget_counts(container)
        return {"stopped": [container] if stopped else []}

    def start_fault(
        self, container: dict[str, Any], fault: dict[str, Any], fault_id: str, run: str, injector: str, seed: int = 0
    ) -> dict[str, Any]:
        """Start a fault on all processes of a container.

        Arguments:
            container: its `name`, `id` and first process's `pid`.
            fault: a `Fault`, as its `to_json` returns it.
            fault_id: the id of the fault.
            run: the id of the run that starts it.
            injector: `auto`, `uprobe`, `ptrace` or `strace`.
            seed: the seed of the random decisions.
        """
        target = find_target(container)
        record, attached = self._faults.start(target, Fault.from_json(fault), fault_id, run, injector, seed)
        given = record.to_json()
        kept = ("fault", "text", "injector", "seed", "syscalls", "effects", "begins", "ends", "not_attached")
        return {
            **{name: given[name] for name in kept},
            "warnings": [*record.warnings, *self._events.warnings()],
            "name": target.name,
            "id": target.id,
            "attached": attached,
        }

    def stop_fault(
        self,
        container: str | None = None,
        syscalls: list[str] | None = None,
        run: str | None = None,
        fault_id: str | None = None,
    ) -> dict[str, Any]:
        """End the active faults that match all given arguments. Without arguments, end all faults.

        Arguments:
            container: a container's name or id.
            syscalls: system calls; a fault on one of them matches.
            run: the id of a run.
            fault_id: the id of a fault.
        """
        stopped = self._faults.stop("it was stopped", container, syscalls, run, fault_id)
        return {"stopped": [record.to_json() for record in stopped]}

    def status(self) -> dict[str, Any]:
        """Return the monitored containers and all faults."""
        return {
            "version": __version__,
            "targets": self._monitoring.status(),
            "faults": [record.to_json() for record in self._faults.records()],
            **self._events.status(),
        }

    def examine(self) -> list[dict[str, Any]]:
        """Find out what this host supports. Return the findings, as `Finding.to_json` returns them."""
        own = Target(AGENT, "", self._own) if self._own else None
        return [finding.to_json() for finding in self._doctor.examine(own)]

    def dump_maps(self) -> dict[str, Any]:
        """Return the content of the kernel's maps, by program and map."""
        return self._collector.maps()

    def retire(self) -> dict[str, Any]:
        """Refuse all further work if there is nothing to do, so that the agent can be removed without a race."""
        with self._monitoring.changing, self._faults.changing:
            idle = not self._monitoring.targets() and not self._faults.targets()
            if idle:
                self._retirement.begin()
            return {"retired": idle}
