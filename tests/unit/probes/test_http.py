"""Which faults a recovery is measured from, and which it cannot be measured from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from chaoslib.exceptions import ActivityFailed

from chaosorca.probes import http

Known = Callable[..., None]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Known:
    """An agent that knows these faults of `web`, each as what is not usual about it."""

    def make(*faults: dict[str, Any]) -> None:
        usual = {
            "container": "web",
            "text": "openat:error=EIO",
            "active": False,
            "placebo": False,
            "injected": {"openat": 9},
            "begins": "2023-11-14T22:13:20.000Z",
            "ends": "2023-11-14T22:14:20.000Z",
            "ended": "2023-11-14T22:13:25.500Z",
        }
        monkeypatch.setattr(http, "known_faults", lambda container, configuration: [{**usual, **one} for one in faults])

    return make


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        ([], "no fault on container 'web' has ended since the agent began: start one first, and end it"),
        (
            [{"active": True, "ended": None}, {}],
            "fault 'openat:error=EIO' is active on container 'web' until 2023-11-14T22:14:20.000Z: end it first (stop_fault)",
        ),
        (
            [{"injected": {"openat": 0}}],
            "fault 'openat:error=EIO' on container 'web' never fired: there is nothing to recover from",
        ),
        (  # one that fired is too long ago
            [{}, {"injected": {}, "begins": "2023-11-14T22:14:00.000Z", "ended": "2023-11-14T22:14:01.000Z"}],
            "fault 'openat:error=EIO' on container 'web' never fired: there is nothing to recover from",
        ),
    ],
)
def test_without_a_fault_that_has_hit_and_ended_there_is_no_recovery(faults: list[dict[str, Any]], says: str, known: Known) -> None:
    known(*faults)
    with pytest.raises(ActivityFailed) as failed:
        http.time_to_recover("web")
    assert str(failed.value) == says


NOT_FIRED = {"injected": {}}
LATER = {"begins": "2023-11-14T22:13:30.000Z", "ended": "2023-11-14T22:13:31.000Z"}
MUCH_LATER = {"begins": "2023-11-14T22:14:10.000Z", "ended": "2023-11-14T22:14:11.000Z"}


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
def test_the_recovery_is_that_from_what_hit_last(
    faults: list[dict[str, Any]], span: tuple[float, float], known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(http, "open_prometheus", lambda configuration: configuration["prometheus_base_url"])
    monkeypatch.setattr(http.recovery, "time_to_recover", lambda *arguments: asked.extend(arguments) or 1.25)
    known(*faults)
    given = {"status": "4xx,none", "role": "client", "within": "1m", "configuration": {"prometheus_base_url": "there"}}
    assert http.time_to_recover("0123abcd", **given) == 1.25
    requests = 'chaosorca_http_requests_total{job="chaosorca",container="web",role="client"'
    expected = tuple(1_700_000_000.0 + at for at in span)
    assert asked == ["there", "web", requests + "}", requests + ',code=~"4..|none"}', expected, 60.0]
