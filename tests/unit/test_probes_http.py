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
            "state": "fired 9 times",
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
            [{}, {"state": "never fired"}],
            "fault 'openat:error=EIO' on container 'web' never fired: there is nothing to recover from",
        ),
    ],
)
def test_without_a_fault_that_has_hit_and_ended_there_is_no_recovery(faults: list[dict[str, Any]], says: str, known: Known) -> None:
    known(*faults)
    with pytest.raises(ActivityFailed) as failed:
        http.time_to_recover("web")
    assert str(failed.value) == says


@pytest.mark.parametrize("latest", [{}, {"state": "never fired", "placebo": True}])
def test_all_faults_and_what_is_asked_for_reach_the_measurement(
    latest: dict[str, Any], known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(http, "open_prometheus", lambda configuration: configuration["prometheus_base_url"])
    monkeypatch.setattr(http.recovery, "time_to_recover", lambda *arguments: asked.extend(arguments) or 1.25)
    known({"container": "web"}, {"begins": "2023-11-14T22:13:30.000Z", "ended": "2023-11-14T22:13:31.000Z", **latest})
    given = {"status": "4xx,none", "role": "client", "within": "1m", "configuration": {"prometheus_base_url": "there"}}
    assert http.time_to_recover("0123abcd", **given) == 1.25
    requests = 'chaosorca_http_requests_total{job="chaosorca",container="web",role="client"'
    spans = [(1_700_000_000.0, 1_700_000_005.5), (1_700_000_010.0, 1_700_000_011.0)]
    assert asked == ["there", "web", requests + "}", requests + ',code=~"4..|none"}', spans, 60.0]
