"""The agent's operations, with parts that the test stands in for."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from chaosorca.agent import agent as agent_module
from chaosorca.agent import timeouts
from chaosorca.agent.agent import Agent, Retirement
from chaosorca.agent.server import OPERATIONS
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import parse_fault
from chaosorca.model.record import FaultRecord
from tests.support.records import fault_record

RECORD = fault_record(
    id="f1", container_id="1" * 64, text="read:error=EIO", seed=0, syscalls=("read",), begins=1.0, ends=2.0, warnings=("slow",)
)


class Part:
    """All parts of an agent in one: it notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.busy: list[str] = []
        self.monitored: set[str] = set()
        self.changing = contextlib.nullcontext()

    def targets(self) -> list[str]:
        return self.busy

    def is_monitored(self, container: str) -> bool:
        return container in self.monitored

    def start(self, target: Any, *given: Any) -> Any:
        self.asked.append(("start", target.name, *given))
        is_monitoring = len(given) == 1
        return {"name": target.name, "warnings": ["w"]} if is_monitoring else (RECORD, 3)

    def stop(self, *given: Any) -> Any:
        self.asked.append(("stop", *given))
        return [RECORD] if len(given) > 1 else given[0] in self.monitored

    def forget_counts(self, container: str) -> None:
        self.asked.append(("forget", container))

    def read_ahead(self, target: Any) -> None:
        self.asked.append(("read ahead", target.name))

    def records(self) -> list[FaultRecord]:
        return [RECORD]

    def status(self) -> Any:
        return {"follows": "names", "follows_reason": ""}

    def warnings(self) -> list[str]:
        return ["not followed"]

    def maps(self) -> dict[str, Any]:
        return {"uprobe": {"rules": {"entries": 0, "content": []}}}


class Found:
    """A target of the container that is asked for."""

    def __init__(self, container: dict[str, Any]) -> None:
        self.name, self.id = container["name"], container["id"]


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Part:
    monkeypatch.setattr(agent_module, "find_target", Found)
    return Part()


def agent_of(part: Any, retirement: Retirement | None = None) -> Agent:
    return Agent(part, part, part, part, part, part, retirement or Retirement(), None)


WEB = {"name": "web", "id": "1" * 64, "pid": 10}


def test_every_operation_of_the_server_is_offered() -> None:
    assert {name for name in vars(Agent) if not name.startswith("_")} == set(OPERATIONS)


def test_a_new_container_starts_from_zero(part: Part) -> None:
    assert agent_of(part).start_monitoring(WEB, ["http"]) == {"name": "web", "warnings": ["w", "not followed"]}
    assert part.asked == [("forget", "web"), ("read ahead", "web"), ("start", "web", ["http"])]


def test_a_monitored_container_keeps_its_counts(part: Part) -> None:
    part.monitored = {"web"}
    agent_of(part).start_monitoring(WEB, ["http"])
    assert ("forget", "web") not in part.asked


@pytest.mark.parametrize(("monitored", "stopped"), [({"web"}, ["web"]), (set(), [])])
def test_stopping_returns_what_was_monitored(part: Part, monitored: set[str], stopped: list[str]) -> None:
    part.monitored = monitored
    assert agent_of(part).stop_monitoring("web") == {"stopped": stopped}


def test_a_started_fault_is_described_as_json(part: Part) -> None:
    fault = parse_fault("x86_64", "read", error="EIO")
    started = agent_of(part).start_fault(WEB, fault.to_json(), "f1", "r1", "auto", 7)
    assert json.loads(json.dumps(started)) == {
        "fault": "f1",
        "text": "read:error=EIO",
        "injector": "uprobe",
        "seed": 0,
        "syscalls": ["read"],
        "effects": ["error"],
        "begins": "1970-01-01T00:00:01.000Z",
        "ends": "1970-01-01T00:00:02.000Z",
        "not_attached": [],
        "warnings": ["slow", "not followed"],
        "name": "web",
        "id": "1" * 64,
        "attached": 3,
    }


def test_stopped_faults_are_returned_as_records(part: Part) -> None:
    assert agent_of(part).stop_fault(run="r1") == {"stopped": [RECORD.to_json()]}
    assert part.asked == [("stop", "it was stopped", None, None, "r1", None)]


def test_maps_are_those_of_the_collector(part: Part) -> None:
    assert agent_of(part).dump_maps() == {"uprobe": {"rules": {"entries": 0, "content": []}}}


def test_an_idle_agent_retires_and_refuses_work(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    retirement = Retirement()
    retirement.admit()
    assert agent_of(part, retirement).retire() == {"retired": True}
    with pytest.raises(AgentError, match="is being removed because it had nothing to do"):
        retirement.admit()
    monkeypatch.setattr(timeouts, "RETIRED_FOR", 0.0)
    retirement.admit()


def test_a_busy_agent_does_not_retire(part: Part) -> None:
    part.busy = ["web"]
    retirement = Retirement()
    assert agent_of(part, retirement).retire() == {"retired": False}
    retirement.admit()
