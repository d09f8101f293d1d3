"""The terms of the crash matrix: engines, events and outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import docker

if TYPE_CHECKING:
    from tests.support.crashes.round import Round

LONG = 60.0
"""A duration in seconds. No round waits until it is over."""

ENDS = "ends"
EXPIRES = "stays in force until its duration is over"
STAYS = "stays in force until it is stopped"
"""What an event does to the fault."""


class Engine(Protocol):
    """The parts of a Docker Engine that a round needs."""

    configuration: dict[str, Any]

    @property
    def client(self) -> docker.DockerClient: ...

    def start(self, live_restore: bool) -> None: ...

    def stop(self) -> None: ...


@dataclass
class FirstEngine:
    """The engine that the `docker` command uses. Its daemon is never stopped."""

    client: docker.DockerClient = field(default_factory=docker.from_env)
    configuration: dict[str, Any] = field(default_factory=dict)

    def start(self, live_restore: bool) -> None:
        """Refuse to start the daemon."""
        raise NotImplementedError("the machine's own daemon is not restarted")

    def stop(self) -> None:
        """Refuse to stop the daemon."""
        raise NotImplementedError("the machine's own daemon is not stopped")


@dataclass(frozen=True)
class Event:
    """Something that happens while a fault is in force, and what must be true afterwards.

    Attributes:
        name: the event's name.
        trigger: a function that makes the event happen.
        fault: what happens to the fault: `ENDS`, `EXPIRES` or `STAYS`.
        agent: the allowed states of the agent's container: `runs`, `dead` (exists, but does not run), `gone`.
        restarted: whether the target has new processes.
        duration: the fault's duration in seconds.
        grace: how many seconds after the fault's duration the tracer ends by itself.
        by_chaos: whether `chaos run` starts the fault. The event may then happen before the fault begins.
        live_restore: whether the second engine has live-restore; None if the event happens on the first engine.
        full_load: whether the target gets as many requests as it can answer.
    """

    name: str
    trigger: Callable[[Round], None]
    fault: str
    agent: tuple[str, ...]
    restarted: bool = False
    duration: float = LONG
    grace: float = 0.0
    by_chaos: bool = False
    live_restore: bool | None = None
    full_load: bool = False


@dataclass
class Outcome:
    """The result of a round.

    Attributes:
        event, effect: the name of the event, and the effect of the fault.
        complaints: what was wrong.
        injector: the expected injector of the fault.
        seconds: the time until everything was as expected.
        clean_up: the time from `stop_fault` and `stop_all_faults` until nothing of chaosorca was left.
    """

    event: str
    effect: str
    complaints: list[str]
    injector: str
    seconds: float = 0.0
    clean_up: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether there was no complaint."""
        return not self.complaints
