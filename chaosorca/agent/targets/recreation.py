"""Moves faults and monitoring to a container that was re-created under the same name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from chaosorca.agent.targets.target import Target, find_target

_log = logging.getLogger("chaosorca.agent")


class Follower(Protocol):
    """A part of the agent that keeps targets: the faults or the monitoring."""

    def targets(self) -> list[Target]:
        """Return the targets of this part."""

    def replace_target(self, target: Target) -> None:
        """Replace this part's target of the same name, if there is one."""


class Recreation:
    """Moves targets to re-created containers."""

    def __init__(self, followers: Sequence[Follower]) -> None:
        """
        Arguments:
            followers: the parts that keep targets, in the order in which their targets are moved.
        """
        self._followers = followers

    def ids_by_name(self) -> dict[str, set[str]]:
        """Return the ids of all targets, by name."""
        ids: dict[str, set[str]] = {}
        for target in [target for follower in self._followers for target in follower.targets()]:
            ids.setdefault(target.name, set()).add(target.id)
        return ids

    def recreated(self, container: dict[str, Any]) -> None:
        """Move faults and monitoring to a re-created container. The series continue, and the faults are re-attached.

        Arguments:
            container: as `Container.to_json` returns it.

        Raises:
            AgentError: the container has ended, or it has no control group of its own.
        """
        target = find_target(container)
        for follower in self._followers:
            follower.replace_target(target)
        _log.info("container %s was re-created: it is %s now", target.name, target.id[:12])
