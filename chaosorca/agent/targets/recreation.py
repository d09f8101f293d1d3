"""What happens when a container is re-created under its name: its faults and its monitoring move to the new container."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from chaosorca.agent.targets.target import Target, find_target

_log = logging.getLogger("chaosorca.agent")


class Follower(Protocol):
    """A part of the agent that keeps targets: the faults, the monitoring."""

    def targets(self) -> list[Target]:
        """Return its targets."""

    def replace_target(self, target: Target) -> None:
        """Replace its target of the same name, if it has one."""


class Recreation:
    """Moves targets to re-created containers."""

    def __init__(self, followers: Sequence[Follower]) -> None:
        """
        Arguments:
            followers: the parts that keep targets, in the order in which they are moved.
        """
        self._followers = followers

    def ids_by_name(self) -> dict[str, set[str]]:
        """Return the ids of all targets, by name."""
        ids: dict[str, set[str]] = {}
        for target in [target for follower in self._followers for target in follower.targets()]:
            ids.setdefault(target.name, set()).add(target.id)
        return ids

    def recreated(self, container: dict[str, Any]) -> None:
        """Move the target of a name to the container that has the name now. Its series continue, its faults are re-attached.

        Arguments:
            container: as `Container.to_json` returns it.

        Raises:
            AgentError: the container has ended, or has no control group of its own.
        """
        target = find_target(container)
        for follower in self._followers:
            follower.replace_target(target)
        _log.info("container %s was re-created: it is %s now", target.name, target.id[:12])
