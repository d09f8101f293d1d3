"""What happens when a container is re-created."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.agent.targets import recreation
from chaosorca.agent.targets.recreation import Recreation
from chaosorca.agent.targets.target import Target
from chaosorca.model.errors import AgentError


def target(name: str, id_: str) -> Target:
    return Target(name, id_, Cgroup({}, Path("/nowhere")))


class Follower:
    """Keeps targets, and notes which were replaced."""

    def __init__(self, log: list[tuple[str, str]], name: str, *targets: Target) -> None:
        self._log, self._name, self._targets = log, name, list(targets)

    def targets(self) -> list[Target]:
        return self._targets

    def replace_target(self, new: Target) -> None:
        self._log.append((self._name, new.id))


def test_ids_of_all_followers_are_joined_by_name() -> None:
    followers = [Follower([], "faults", target("web", "1")), Follower([], "monitoring", target("web", "2"), target("db", "3"))]
    assert Recreation(followers).ids_by_name() == {"web": {"1", "2"}, "db": {"3"}}


def test_faults_move_before_the_monitoring(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[tuple[str, str]] = []
    monkeypatch.setattr(recreation, "find_target", lambda container: target(container["name"], container["id"]))
    Recreation([Follower(log, "faults"), Follower(log, "monitoring")]).recreated({"name": "web", "id": "9"})
    assert log == [("faults", "9"), ("monitoring", "9")]


def test_a_container_that_has_ended_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[tuple[str, str]] = []

    def gone(container: dict[str, str]) -> Target:
        raise AgentError("it has ended")

    monkeypatch.setattr(recreation, "find_target", gone)
    with pytest.raises(AgentError, match="it has ended"):
        Recreation([Follower(log, "faults")]).recreated({"name": "web", "id": "9"})
    assert log == []
