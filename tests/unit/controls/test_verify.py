"""The verdict of the `verify` control on a journal."""

from __future__ import annotations

from typing import Any

import pytest

from chaosorca.controls.verdict import failures, stopped_faults
from chaosorca.model.record import FaultRecord
from tests.support.records import fault_record


def run(output: Any, status: str = "succeeded", **arguments: Any) -> dict[str, Any]:
    provider = {"type": "python", "module": "chaosorca.actions.faults", "func": "start_fault", "arguments": arguments}
    return {"activity": {"name": "break-it", "type": "action", "provider": provider}, "status": status, "output": output}


def started(*containers: dict[str, Any]) -> dict[str, Any]:
    return {"fault": "f1", "containers": list(containers)}


def by_key(faults: list[FaultRecord]) -> dict[tuple[str, str], FaultRecord]:
    return {(fault.id, fault.container): fault for fault in faults}


def records(injected: dict[str, dict[str, int]]) -> dict[tuple[str, str], FaultRecord]:
    """Return records of faults that hit so many calls, by fault and container."""
    counts = [(fault, container, calls) for fault, containers in injected.items() for container, calls in containers.items()]
    return by_key([fault_record(id=fault, container=container, injected={"openat": calls}) for fault, container, calls in counts])


def target(name: str = "web", not_attached: int = 0) -> dict[str, Any]:
    return {"name": name, "id": "0" * 64, "attached": 3, "not_attached": [{"pid": n, "reason": "no"} for n in range(not_attached)]}


STOPPED = {
    "activity": {"provider": {"module": "chaosorca.actions.faults", "func": "stop_fault"}},
    "status": "succeeded",
    "output": {"stopped": [fault_record(id="f1", injected={"openat": 3, "read": 4}).to_json()]},
}
OTHER = {
    "activity": {"name": "pause", "provider": {"type": "process", "path": "true", "arguments": ["x"]}},
    "output": {"stdout": ""},
}
NO_LONGER_MONITORED = {
    "activity": {"provider": {"module": "chaosorca.actions.monitoring", "func": "stop_monitoring"}},
    "output": {"stopped": ["web"]},
}


@pytest.mark.parametrize(
    ("runs", "injected", "least", "reasons"),
    [
        ([], {}, 1, []),
        ([OTHER], {}, 1, []),
        ([NO_LONGER_MONITORED], {}, 1, []),
        ([run(started(target()))], {"f1": {"web": 1}}, 1, []),
        ([run(started(target())), STOPPED], {}, 7, []),
        (
            [run(started(target())), STOPPED],
            {},
            8,
            ["fault 'break-it' fired 7 times on container 'web' (at least 8 calls expected)"],
        ),
        (
            [run(started(target()))],
            {"f1": {"web": 0}},
            1,
            ["fault 'break-it' never fired on container 'web' (at least 1 call expected)"],
        ),
        ([run(started(target()))], {"f1": {"web": 0}}, 0, []),
        ([run(started(target()), placebo=True)], {"f1": {"web": 0}}, 1, []),
        ([run(started(target()), placebo="true")], {}, 1, []),
        ([run(None, "failed")], {}, 1, ["fault 'break-it' was not started"]),
        ([run(None)], {}, 1, ["fault 'break-it' was not started"]),
        (
            [run(started(target(not_attached=2)))],
            {"f1": {"web": 5}},
            1,
            ["fault 'break-it' was not attached to 2 processes of container 'web'"],
        ),
        (
            [run(started(target()))],
            {"other": {"web": 5}},
            1,
            ["it is not known how often fault 'break-it' fired on container 'web': the agent is gone"],
        ),
        (
            [run(started(target("a"), target("b")))],
            {"f1": {"a": 1, "b": 0}},
            1,
            ["fault 'break-it' never fired on container 'b' (at least 1 call expected)"],
        ),
    ],
)
def test_a_fault_that_did_not_happen_is_a_failure(
    runs: list[dict[str, Any]], injected: dict[str, dict[str, int]], least: int, reasons: list[str]
) -> None:
    journal = {"run": runs}
    assert failures(journal, {**records(injected), **by_key(stopped_faults(journal))}, least) == reasons


def test_an_interrupted_journal_has_no_runs() -> None:
    assert failures({"run": None, "rollbacks": None}, {}, 1) == []
