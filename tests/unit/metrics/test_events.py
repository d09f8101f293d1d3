"""Events of a journal and of records of faults."""

from __future__ import annotations

from typing import Any

import pytest

from chaosorca.metrics.events import Event, fault_events, journal_events, to_csv
from chaosorca.model.record import FaultRecord
from tests.support.records import fault_record

NOON = 1_704_110_400.0  # 2024-01-01T12:00:00Z


def run(name: str, start: str, end: str | None, **provider: Any) -> dict[str, Any]:
    """Return the run of an activity as Chaos Toolkit writes it."""
    return {
        "activity": {"type": "action", "name": name, "provider": {"type": "python", **provider}},
        "start": f"2024-01-01T12:00:{start}",
        **({"end": f"2024-01-01T12:00:{end}"} if end else {}),
        "status": "succeeded",
    }


def listed(journal: dict[str, Any]) -> list[tuple[float, str, str]]:
    """Return the events in order: seconds since noon, event, detail."""
    return [(round(event.at - NOON, 3), event.event, event.detail) for event in sorted(journal_events(journal))]


@pytest.mark.parametrize("zone", ["", "+00:00", "Z"])
def test_a_whole_journal_becomes_events(zone: str) -> None:
    def at(text: str) -> str:
        return text + zone

    journal = {
        "experiment": {"title": "it comes back"},
        "start": at("2024-01-01T12:00:00"),
        "end": at("2024-01-01T12:00:40"),
        "steady_states": {
            "before": {"steady_state_met": True, "probes": [run("p", at("01"), at("02.5"))]},
            "after": {"steady_state_met": True, "probes": [run("p", at("20"), at("21"))]},
            "during": [],
        },
        "run": [run("a", at("03"), at("04.123456")), run("b", at("05"), at("10"))],
        "rollbacks": [run("r", at("30"), at("31"))],
    }
    assert listed(journal) == [
        (0, "experiment_begin", "it comes back"),
        (1, "activity_begin", "p"),
        (1, "phase_begin", "hypothesis before"),
        (2.5, "activity_end", "p"),
        (2.5, "phase_end", "hypothesis before"),
        (3, "activity_begin", "a"),
        (3, "phase_begin", "method"),
        (4.123, "activity_end", "a"),
        (5, "activity_begin", "b"),
        (10, "activity_end", "b"),
        (10, "phase_end", "method"),
        (20, "activity_begin", "p"),
        (20, "phase_begin", "hypothesis after"),
        (21, "activity_end", "p"),
        (21, "phase_end", "hypothesis after"),
        (30, "activity_begin", "r"),
        (30, "phase_begin", "rollbacks"),
        (31, "activity_end", "r"),
        (31, "phase_end", "rollbacks"),
        (40, "experiment_end", "it comes back"),
    ]


def test_a_time_of_another_zone_is_the_same_moment() -> None:
    journal = {"experiment": {"title": "t"}, "start": "2024-01-01T13:00:00+01:00", "end": "2024-01-01T06:30:01-05:30"}
    assert listed(journal) == [(0, "experiment_begin", "t"), (1, "experiment_end", "t")]


@pytest.mark.parametrize(
    ("journal", "events"),
    [
        ({}, []),
        ({"experiment": None, "run": None, "rollbacks": None, "steady_states": None}, []),
        ({"experiment": {}, "start": None, "end": None, "run": []}, []),
        ({"start": "2024-01-01T12:00:00"}, [(0, "experiment_begin", "")]),
        ({"steady_states": {"before": None, "after": None}}, []),
        ({"steady_states": {"before": {}, "after": {"probes": None}}}, []),
        ({"run": [run("interrupted", "01", None)]}, []),
        ({"run": [{"activity": None, "start": None, "end": None}]}, []),
        ({"run": [{}]}, []),
        (
            {"run": [run("a", "01", "02"), run("interrupted", "03", None)], "rollbacks": []},
            [(1, "activity_begin", "a"), (1, "phase_begin", "method"), (2, "activity_end", "a"), (2, "phase_end", "method")],
        ),
        (
            {"run": [run("background", "01", "09"), run("b", "02", "03")]},
            [
                (1, "activity_begin", "background"),
                (1, "phase_begin", "method"),
                (2, "activity_begin", "b"),
                (3, "activity_end", "b"),
                (9, "activity_end", "background"),
                (9, "phase_end", "method"),
            ],
        ),
    ],
)
def test_parts_that_did_not_run_give_no_events(journal: dict[str, Any], events: list[Any]) -> None:
    assert listed(journal) == events


@pytest.mark.parametrize("arguments", [["-c", "1"], "-c 1", {"path": "/"}, None])
def test_a_process_provider_is_an_activity_like_others(arguments: Any) -> None:
    journal = {"run": [run("curl", "01", "02", type="process", path="curl", arguments=arguments)]}
    assert [event for _, event, detail in listed(journal) if detail == "curl"] == ["activity_begin", "activity_end"]


@pytest.mark.parametrize(
    ("faults", "events"),
    [
        ([], []),
        ([fault_record(begins=NOON + 1.5, ended=None)], [Event(NOON + 1.5, "fault_begin", "web", "openat:error=EACCES")]),
        (
            [fault_record(begins=NOON + 1.5, ended=NOON + 9, injected={"openat": 3, "read": 4})],
            [
                Event(NOON + 1.5, "fault_begin", "web", "openat:error=EACCES"),
                Event(NOON + 9, "fault_end", "web", "openat:error=EACCES (it was stopped; injected 7)"),
            ],
        ),
        (
            [fault_record(begins=NOON + 1.5, ended=NOON + 2, reason="its duration was over", injected={})],
            [
                Event(NOON + 1.5, "fault_begin", "web", "openat:error=EACCES"),
                Event(NOON + 2, "fault_end", "web", "openat:error=EACCES (its duration was over; injected 0)"),
            ],
        ),
    ],
)
def test_an_active_fault_has_no_end(faults: list[FaultRecord], events: list[Event]) -> None:
    assert fault_events(faults) == events


def test_csv_is_sorted_by_time_and_has_each_event_once() -> None:
    later, earlier = Event(NOON + 2.25, "fault_end", "web", 'a, "b"'), Event(NOON, "experiment_begin", "", "t")
    assert to_csv([later, earlier, later]) == (
        "timestamp,event,container,detail\n"
        "2024-01-01T12:00:00.000Z,experiment_begin,,t\n"
        '2024-01-01T12:00:02.250Z,fault_end,web,"a, ""b"""\n'
    )


def test_csv_of_nothing_is_its_header() -> None:
    assert to_csv([]) == "timestamp,event,container,detail\n"
