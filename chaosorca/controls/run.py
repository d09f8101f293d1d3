"""One run of an experiment. All controls of the run share it.

Chaos Toolkit calls each function of each control separately, always in the same thread. Every function receives the same
`experiment` object, except `cleanup_control`, which receives nothing. The current run is therefore kept in a context variable. The
`experiment` object cannot hold the run, because Chaos Toolkit writes this object into the journal.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from chaoslib import substitute
from chaoslib.control import get_global_controls

from chaosorca.controls.common import is_dry, logging_errors
from chaosorca.engine.agent import find_agent
from chaosorca.engine.client import connect
from chaosorca.metrics.tables import Table
from chaosorca.model.record import FaultRecord

_PACKAGE = "chaosorca.controls."

FaultKey = tuple[str, str]
"""The id of a fault, and the name of a container."""


class Task(NamedTuple):
    """The declaration of one of our controls: its name and its arguments."""

    control: str
    arguments: Mapping[str, Any]


@dataclass(eq=False)
class Run:
    """The state of one run: its settings, its measurements, and the completed tasks."""

    experiment: Mapping[str, Any]
    configuration: dict[str, Any] | None = None
    secrets: dict[str, Any] | None = None
    began: float = field(default_factory=time.time)
    tables: dict[tuple[str, str], Table] = field(default_factory=dict)
    """The measurements, by container and metric."""
    reported: dict[FaultKey, FaultRecord] = field(default_factory=dict)
    """All faults that the agent has reported, including those of other runs."""
    ended: dict[FaultKey, FaultRecord] = field(default_factory=dict)
    """The faults that this experiment has ended."""
    done: list[Task] = field(default_factory=list)
    """The tasks that are complete."""
    collected_before_rollbacks: bool = False
    has_handler: bool = False
    """Whether the run's handler of events is registered."""
    started_prometheus: bool = False
    """Whether `observe` started Prometheus."""
    started_monitoring: list[str] = field(default_factory=list)
    """The containers whose monitoring `observe` started."""

    @property
    def is_dry(self) -> bool:
        """Whether Chaos Toolkit only pretends to run the experiment."""
        return is_dry(self.experiment)

    def tasks(self) -> list[Task]:
        """Return our controls of this run: first the global ones, then those of the experiment."""
        return [*self.global_tasks(), *self._declared(self.experiment.get("controls") or [])]

    def global_tasks(self) -> list[Task]:
        """Return our controls that apply to all experiments. The settings and control files declare these controls."""
        return self._declared(get_global_controls())

    def ask_agent(self) -> None:
        """Update the records of faults from the agent. Errors are logged."""

        def ask() -> None:
            agent = find_agent(connect(self.configuration))
            for fault in agent.faults() if agent else []:
                self.reported[fault.id, fault.container] = fault

        logging_errors("asking the agent about faults", ask)

    def keep_ended(self, faults: Iterable[FaultRecord]) -> None:
        """Keep the final records of faults that this experiment has ended. The agent may be removed after the last fault."""
        self.ended.update({(fault.id, fault.container): fault for fault in faults})

    def faults(self) -> dict[FaultKey, FaultRecord]:
        """Return the latest record of each known fault."""
        return {**self.reported, **self.ended}

    def faults_since_beginning(self) -> list[FaultRecord]:
        """Return the faults that began or ended in this run, ordered by their beginning."""
        own = [fault for key, fault in self.faults().items() if key in self.ended or fault.begins >= self.began]
        return sorted(own, key=lambda fault: fault.begins)

    def _declared(self, controls: Iterable[Mapping[str, Any]]) -> list[Task]:
        found = []
        for control in controls:
            provider = control.get("provider") or {}
            module = str(provider.get("module", ""))
            if module.startswith(_PACKAGE) and control.get("scope") != "before":
                arguments = provider.get("arguments") or {}
                if self.configuration or self.secrets:  # Chaos Toolkit, too, substitutes only then
                    arguments = substitute(arguments, self.configuration, self.secrets)
                found.append(Task(module.removeprefix(_PACKAGE), arguments if isinstance(arguments, dict) else {}))
        return found


_CURRENT: ContextVar[Run | None] = ContextVar("chaosorca_run", default=None)


def run_of(experiment: Mapping[str, Any] | None, configuration: Any = None, secrets: Any = None) -> Run:
    """Return the current run of an experiment. The first call begins the run.

    Arguments:
        experiment: the object that Chaos Toolkit passes to all controls of the run.
        configuration: the experiment's configuration.
        secrets: the experiment's secrets.
    """
    run = _CURRENT.get()
    if run is None or run.experiment is not experiment:
        run = Run(experiment if experiment is not None else {}, configuration, secrets)
        _CURRENT.set(run)
    return run


def current_run() -> Run | None:
    """Return the current run; None if there is none."""
    return _CURRENT.get()


def forget_run() -> None:
    """Forget the current run after Chaos Toolkit has called the last control."""
    _CURRENT.set(None)
