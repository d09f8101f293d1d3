"""Starting and stopping the monitoring, with an agent that answers as the test says."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from chaosorca.actions import monitoring


class Agent:
    """Watches whoever it is told, with warnings; its containers have ended."""

    def __init__(self, **watched: str) -> None:
        self.watched = watched

    def ask(self, operation: str, **options: Any) -> Any:
        if operation == "start_monitoring":
            return {
                "name": options["container"]["name"],
                "monitors": ["http"],
                "warnings": ["it is odd", "it is slow"],
                "new": True,
            }
        if operation == "stop_monitoring":
            del self.watched[options["container"]]
            return {"stopped": [options["container"]]}
        return {"targets": [{"name": name, "id": id_} for name, id_ in self.watched.items()]}


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    one = Agent()
    monkeypatch.setattr(monitoring, "connect", lambda _: None)
    for name in ("ensure_agent", "find_agent"):
        monkeypatch.setattr(monitoring, name, lambda *_: one)
    monkeypatch.setattr(monitoring, "retire_agent", lambda _: None)
    return one


def test_warnings_are_logged_with_the_containers_name(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    web = SimpleNamespace(to_json=lambda: {"name": "web"})
    monkeypatch.setattr(monitoring, "select_containers", lambda *_: [web])
    with caplog.at_level(logging.WARNING):
        monitoring.start_monitoring(container="web")
    assert list(dict.fromkeys(caplog.messages)) == ["monitoring of web: it is odd", "monitoring of web: it is slow"]


def test_stopping_by_label_is_success_whatever_became_of_the_containers(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = SimpleNamespace(id="a" * 64, name="web")
    monkeypatch.setattr(monitoring, "connect", lambda _: SimpleNamespace(containers=SimpleNamespace(list=lambda **_: [ended])))
    agent.watched = {"web": "a" * 64, "other": "b" * 64}
    assert monitoring.stop_monitoring(label="app=shop") == {"stopped": ["web"]}
    assert monitoring.stop_monitoring(label="app=shop") == {"stopped": []}
    assert agent.watched == {"other": "b" * 64}
