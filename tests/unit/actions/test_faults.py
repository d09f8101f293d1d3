"""The actions that start and stop faults, with a fake agent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from chaoslib.exceptions import ActivityFailed

from chaosorca.actions import faults
from chaosorca.model.container import Container
from chaosorca.model.record import FaultRecord
from tests.support.fakes import START
from tests.support.records import fault_record

WEB = Container(name="web", id="w" * 64, pid=7, host_network=False, shared_network=False)


class FakeAgent:
    """An agent that keeps some faults, and returns those that it is asked to stop."""

    def __init__(self, *records: FaultRecord) -> None:
        self.records = list(records)
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def ask(self, operation: str, **arguments: Any) -> Any:
        self.asked.append((operation, arguments))
        container = arguments["container"]
        return {
            "name": container["name"],
            "id": container["id"],
            "attached": 3,
            "not_attached": [],
            "injector": "uprobe",
            "warnings": [],
            "begins": "2023-11-14T22:13:20.000Z",
            "ends": "2023-11-14T22:23:20.000Z",
        }

    def faults(self) -> list[FaultRecord]:
        return self.records

    def stop_fault(self, **selection: Any) -> list[FaultRecord]:
        self.asked.append(("stop_fault", selection))
        return [one for one in self.records if selection.get("container") in (None, one.container_id)]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes an engine with the container `web` and the given agent."""

    def make(agent: FakeAgent | None) -> SimpleNamespace:
        client = SimpleNamespace(version=lambda: {"Arch": "amd64"})
        monkeypatch.setattr(faults, "connect", lambda _: client)
        monkeypatch.setattr(faults, "find_agent", lambda _: agent)
        monkeypatch.setattr(faults, "ensure_agent", lambda *_: agent)
        monkeypatch.setattr(faults, "retire_agent", lambda _: True)
        monkeypatch.setattr(faults, "select_containers", lambda *_: [WEB])
        monkeypatch.setattr(faults, "selected_ids", lambda *_: [WEB.id])
        monkeypatch.setattr(faults, "count_processes", lambda *_: 5)
        return client

    return make


def test_every_argument_of_a_fault_reaches_the_agent_by_its_name(engine: Any) -> None:
    agent = FakeAgent()
    engine(agent)
    given: dict[str, Any] = {
        "error": "EIO",
        "signal": "SIGUSR1",
        "delay_enter": "1ms",
        "delay_exit": "2ms",
        "when": "3+",
        "probability": "0.5",
        "max_faults": "7",
        "process": "worker",
        "path": "/data/file",
        "duration": "5s",
        "placebo": "true",
        "abort_when": "error_ratio > 0.5 for 10s",
    }
    started = faults.start_fault("openat", container="web", **given, configuration={"chaosorca_seed": 9})
    ((operation, request),) = agent.asked
    assert (operation, request["seed"], request["injector"], request["container"]) == ("start_fault", 9, "auto", WEB.to_json())
    expected = {
        "syscalls": ["openat"],
        "error": "EIO",
        "signal": "SIGUSR1",
        "delay_enter": 1_000,
        "delay_exit": 2_000,
        "when": "3+",
        "probability": 0.5,
        "max_faults": 7,
        "process": "worker",
        "path": "/data/file",
        "duration": 5_000_000,
        "placebo": True,
    }
    assert {key: request["fault"][key] for key in expected} == expected
    assert "error_ratio" in str(request["fault"]["abort_when"])
    assert started["containers"] == [{"name": "web", "id": WEB.id, "attached": 3, "not_attached": []}]


def test_a_stopped_fault_is_returned_as_the_agents_record_of_it(engine: Any) -> None:
    ended, other = fault_record(container_id=WEB.id), fault_record(id="2", container_id="d" * 64)
    agent = FakeAgent(ended, other)
    engine(agent)
    assert faults.stop_fault(container="web", syscall="open,openat") == {"stopped": [ended.to_json()]}
    assert agent.asked == [("stop_fault", {"container": WEB.id, "syscalls": ["open", "openat"]})]
    assert faults.stop_all_faults() == {"stopped": [ended.to_json(), other.to_json()]}


def test_stopping_without_an_agent_is_success(engine: Any) -> None:
    engine(None)
    assert faults.stop_fault(container="web") == {"stopped": []}
    assert faults.stop_all_faults() == {"stopped": []}


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({"ended": None}, True),
        ({"ended": START + 1}, False),
        ({"ended": None, "syscalls": ("read",)}, False),
        ({"ended": None, "container_id": "d" * 64}, False),
    ],
)
def test_a_dry_run_refuses_a_second_fault_on_the_same_call(changed: dict[str, Any], refused: bool, engine: Any) -> None:
    engine(FakeAgent(fault_record(**{"container_id": WEB.id, **changed})))
    if refused:
        with pytest.raises(ActivityFailed, match="container 'web' already has fault 'openat:error=EACCES': stop it first"):
            faults.start_fault("openat", container="web", error="EIO", dry_run=True)
    else:
        tried = faults.start_fault("openat", container="web", error="EIO", dry_run=True)
        assert (tried["fault"], tried["containers"][0]["attached"]) == (None, 5)
