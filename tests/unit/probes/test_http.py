"""The faults from which a recovery is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from chaoslib.exceptions import ActivityFailed

from chaosorca.probes import http
from tests.support.fakes import START
from tests.support.records import fault_record

GiveFaults = Callable[..., None]


@pytest.fixture
def give_faults(monkeypatch: pytest.MonkeyPatch) -> GiveFaults:
    """Return a function that gives `web` these faults, each by what is unusual about it."""

    def make(*faults: dict[str, Any]) -> None:
        records = [fault_record(text="openat:error=EIO", **one) for one in faults]
        monkeypatch.setattr(http, "faults_on", lambda container, configuration: records)

    return make


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        ([], "no fault on container 'web' has ended since the agent started: start one and end it first"),
        (
            [{"ended": None}, {}],
            "fault 'openat:error=EIO' is active on container 'web' until 2023-11-14T22:23:20.000Z: end it first (stop_fault)",
        ),
        (
            [{"injected": {"openat": 0}}],
            "fault 'openat:error=EIO' on container 'web' never fired: there is nothing to recover from",
        ),
        (  # the fault that fired is too long ago
            [{}, {"injected": {}, "begins": START + 40, "ended": START + 41}],
            "fault 'openat:error=EIO' on container 'web' never fired: there is nothing to recover from",
        ),
    ],
)
def test_a_recovery_needs_a_fault_that_hit_and_ended(faults: list[dict[str, Any]], says: str, give_faults: GiveFaults) -> None:
    give_faults(*faults)
    with pytest.raises(ActivityFailed) as failed:
        http.time_to_recover("web")
    assert str(failed.value) == says


NOT_FIRED: dict[str, Any] = {"injected": {}}
LATER = {"begins": START + 10, "ended": START + 11}
MUCH_LATER = {"begins": START + 50, "ended": START + 51}


@pytest.mark.parametrize(
    ("faults", "span"),
    [
        ([{}], (0, 5.5)),
        ([{}, LATER], (0, 11)),
        ([LATER, {}], (0, 11)),
        ([{}, MUCH_LATER], (50, 51)),
        ([{}, {**LATER, **NOT_FIRED}], (0, 5.5)),
        ([{**NOT_FIRED, "ended": LATER["ended"]}, LATER], (10, 11)),
        ([{}, {**LATER, **NOT_FIRED, "placebo": True}], (0, 5.5)),
        ([{**NOT_FIRED, "placebo": True}], (0, 5.5)),
    ],
)
def test_the_recovery_is_measured_from_the_last_hit(
    faults: list[dict[str, Any]], span: tuple[float, float], give_faults: GiveFaults, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(http, "open_prometheus", lambda configuration: configuration["prometheus_base_url"])
    monkeypatch.setattr("chaosorca.metrics.recovery.time_to_recover", lambda *arguments: asked.extend(arguments) or 1.25)
    give_faults(*faults)
    given: dict[str, Any] = {
        "status": "4xx,none",
        "role": "client",
        "within": "1m",
        "configuration": {"prometheus_base_url": "there"},
    }
    assert http.time_to_recover("0123abcd", **given) == 1.25
    requests = 'chaosorca_http_requests_total{job="chaosorca",container="web",role="client"'
    expected = tuple(START + at for at in span)
    assert asked == ["there", "web", requests + "}", requests + ',code=~"4..|none"}', expected, 60.0]
