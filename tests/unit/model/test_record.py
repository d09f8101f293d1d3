"""The record of a fault, and its JSON."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaosorca.model.record import Coverage, FaultRecord, NotAttached

RECORD = FaultRecord(
    id="f1",
    run="r1",
    container="web",
    container_id="c0ffee",
    text="openat:error=EACCES",
    injector="uprobe",
    seed=7,
    syscalls=("openat", "read"),
    effects=("error",),
    placebo=False,
    begins=1_700_000_000.125,
    ends=1_700_000_600.125,
    ended=None,
    reason="",
    abort_when=None,
    injected={"openat": 3, "read": 1},
    not_attached=(NotAttached(12, "traced by gdb"),),
    coverage={"openat": Coverage(made=5, probed=4)},
    tracer_restarts=1,
    warnings=("look out",),
)


def test_its_json_has_the_public_names() -> None:
    assert RECORD.to_json() == {
        "fault": "f1",
        "run": "r1",
        "container": "web",
        "container_id": "c0ffee",
        "text": "openat:error=EACCES",
        "injector": "uprobe",
        "seed": 7,
        "syscalls": ["openat", "read"],
        "effects": ["error"],
        "placebo": False,
        "active": True,
        "state": "fired 4 times",
        "begins": "2023-11-14T22:13:20.125Z",
        "ends": "2023-11-14T22:23:20.125Z",
        "ended": None,
        "reason": "",
        "abort_when": None,
        "injected": {"openat": 3, "read": 1},
        "not_attached": [{"pid": 12, "reason": "traced by gdb"}],
        "coverage": {"openat": {"made": 5, "probed": 4}},
        "tracer_restarts": 1,
        "warnings": ["look out"],
    }


@pytest.mark.parametrize("ended", [None, 1_700_000_001.5])
def test_it_comes_back_from_its_json(ended: float | None) -> None:
    record = replace(RECORD, ended=ended)
    assert FaultRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize(("injected", "state"), [({}, "never fired"), ({"a": 1}, "fired once"), ({"a": 2}, "fired 2 times")])
def test_its_state_says_how_often_it_fired(injected: dict[str, int], state: str) -> None:
    record = replace(RECORD, injected=injected)
    assert (record.state, record.fired) == (state, sum(injected.values()))


def test_it_is_active_until_it_has_ended() -> None:
    assert RECORD.active
    assert not replace(RECORD, ended=RECORD.ends).active


def test_an_invalid_record_is_refused() -> None:
    given = RECORD.to_json()
    del given["begins"]
    with pytest.raises(KeyError):
        FaultRecord.from_json(given)
