"""One run of an experiment, shared by the controls that Chaos Toolkit calls in it.

Chaos Toolkit calls each function of each control separately. All of them run in one thread, and all receive the same `experiment`
object, except `cleanup_control`, which receives nothing. The current run is therefore kept in a context variable. It cannot be kept
in the experiment, because the experiment is written into the journal.
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
    """A control of ours as it is declared: its name and its arguments."""

    control: str
    arguments: Mapping[str, Any]


@dataclass(eq=False)
class Run:
    """What the controls of one run know, and what they have done."""

    experiment: Mapping[str, Any]
    configuration: dict[str, Any] | None = None
    secrets: dict[str, Any] | None = None
    began: float = field(default_factory=time.time)
    tables: dict[tuple[str, str], Table] = field(default_factory=dict)
    """What was measured, by container and metric."""
    reported: dict[FaultKey, FaultRecord] = field(default_factory=dict)
    """All faults that the agent has reported, those of other runs included."""
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
        """Return our controls of this run: those of the settings and control files, and then those of the experiment."""
        return [*self.global_tasks(), *self._declared(self.experiment.get("controls") or [])]

    def global_tasks(self) -> list[Task]:
        """Return our controls that the settings and control files declare for all experiments."""
        return self._declared(get_global_controls())

    def ask_agent(self) -> None:
        """Update the records of the faults that the agent keeps; errors are logged."""

        def ask() -> None:
            agent = find_agent(connect(self.configuration))
            for fault in agent.faults() if agent else []:
                self.reported[fault.id, fault.container] = fault

        logging_errors("asking the agent about faults", ask)

    def keep_ended(self, faults: Iterable[FaultRecord]) -> None:
        """Keep the final records of faults that this experiment has ended: the agent may be removed with the last of them."""
        self.ended.update({(fault.id, fault.container): fault for fault in faults})

    def faults(self) -> dict[FaultKey, FaultRecord]:
        """Return the latest record of each known fault."""
        return {**self.reported, **self.ended}

    def faults_since_beginning(self) -> list[FaultRecord]:
        """Return the faults that began or were ended in this run, by when they began."""
        own = [fault for key, fault in self.faults().items() if key in self.ended or fault.begins >= self.began]
        return sorted(own, key=lambda fault: fault.begins)

    def _declared(self, controls: Iterable[Mapping[str, Any]]) -> list[Task]:
        found = []
        for control in controls:
            provider = control.get("provider") or {}
            module = str(provider.get("module", ""))
            if module.startswith(_PACKAGE) and control.get("scope") != "before":
                arguments = provider.get("arguments") or {}
                if self.configuration or self.secrets:  # as Chaos Toolkit does it
                    arguments = substitute(arguments, self.configuration, self.secrets)
                found.append(Task(module.removeprefix(_PACKAGE), arguments if isinstance(arguments, dict) else {}))
        return found


_CURRENT: ContextVar[Run | None] = ContextVar("chaosorca_run", default=None)


def run_of(experiment: Mapping[str, Any] | None, configuration: Any = None, secrets: Any = None) -> Run:
    """Return the current run of an experiment; the first call begins it.

    Arguments:
        experiment: the object that Chaos Toolkit hands to all controls of the run.
        configuration: of the experiment.
        secrets: of the experiment.
    """
    run = _CURRENT.get()
    if run is None or run.experiment is not experiment:
        run = Run(experiment if experiment is not None else {}, configuration, secrets)
        _CURRENT.set(run)
    return run


def current_run() -> Run | None:
    """Return the run that has begun and not been forgotten."""
    return _CURRENT.get()


def forget_run() -> None:
    """Forget the current run: Chaos Toolkit has called its last control."""
    _CURRENT.set(None)
