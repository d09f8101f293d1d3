"""The actions that start and stop monitoring, with a fake agent."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from chaosorca.actions import monitoring


class Agent:
    """An agent that monitors some containers, with warnings. The containers have ended."""

    def __init__(self, **monitored: str) -> None:
        self.monitored = monitored

    def ask(self, operation: str, **options: Any) -> Any:
        if operation == "start_monitoring":
            return {
                "name": options["container"]["name"],
                "monitors": ["http"],
                "warnings": ["it is odd", "it is slow"],
                "new": True,
            }
        if operation == "stop_monitoring":
            del self.monitored[options["container"]]
            return {"stopped": [options["container"]]}
        return {"targets": [{"name": name, "id": id_} for name, id_ in self.monitored.items()]}


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


def test_stopping_by_label_includes_containers_that_have_ended(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = SimpleNamespace(id="a" * 64, name="web")
    monkeypatch.setattr(monitoring, "connect", lambda _: SimpleNamespace(containers=SimpleNamespace(list=lambda **_: [ended])))
    agent.monitored = {"web": "a" * 64, "other": "b" * 64}
    assert monitoring.stop_monitoring(label="app=shop") == {"stopped": ["web"]}
    assert monitoring.stop_monitoring(label="app=shop") == {"stopped": []}
    assert agent.monitored == {"other": "b" * 64}
