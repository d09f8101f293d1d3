"""The condition that aborts a fault."""

from __future__ import annotations

import pytest

from chaosorca.agent.faults.abort import AbortCheck, measure
from chaosorca.agent.histogram import Histogram
from chaosorca.agent.monitors.requests import Requests
from chaosorca.model.abort import parse_abort_when
from chaosorca.model.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "canonical", "measured", "status", "quantile", "bound", "seconds"),
    [
        ("error_ratio > 0.5 for 10s", "error_ratio > 0.5 for 10s", "error_ratio", "5..|none", 0.95, 0.5, 10),
        ("error_ratio>=1", "error_ratio >= 1 for 5s", "error_ratio", "5..|none", 0.95, 1, 5),
        ("error_ratio(4xx,403) > .2 for 500ms", "error_ratio(4xx,403) > .2 for 500ms", "error_ratio", "4..|403", 0.95, 0.2, 0.5),
        ("request_rate < 10 for 1m", "request_rate < 10 for 1m", "request_rate", ".*", 0.95, 10, 60),
        ("request_rate(200) <= 0", "request_rate(200) <= 0 for 5s", "request_rate", "200", 0.95, 0, 5),
        (" latency > 200ms for 2s ", "latency > 200ms for 2s", "latency", ".*", 0.95, 0.2, 2),
        ("latency(0.5) > 1s", "latency(0.5) > 1s for 5s", "latency", ".*", 0.5, 1, 5),
    ],
)
def test_conditions(text: str, canonical: str, measured: str, status: str, quantile: float, bound: float, seconds: float) -> None:
    found = parse_abort_when(text)
    assert (found.text, found.measure, found.status, found.quantile, found.bound, found.seconds) == (
        *(canonical, measured, status, quantile, bound, seconds),
    )
    assert parse_abort_when(found.text) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not a condition"),
        (None, "is not a condition"),
        (0.5, "is not a condition"),
        ("error_ratio", "is not a condition"),
        ("error_ratio = 0.5", "is not a condition"),
        ("error_ratio > 0.5 during 10s", "is not a condition"),
        ("error_ratio > 0.5 for", "is not a condition"),
        ("error_rati > 0.5", "abort_when has no measure 'error_rati': did you mean 'error_ratio'"),
        ("error_ratio > 2", "is not between 0 and 1"),
        ("error_ratio > half", "is not a number"),
        ("error_ratio > 0.5 for 10", "has no unit"),
        ("error_ratio(5x) > 0.5", "status '5x' is not an HTTP code"),
        ("request_rate < -1", "is not between 0 and"),
        ("latency > 0.2", "abort_when's latency '0.2' has no unit"),
        ("latency(2) > 1s", "abort_when's quantile '2' is not between 0 and 1"),
    ],
)
def test_what_is_no_condition(text: object, says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_abort_when(text)
    assert says in str(refused.value)


def requests(latency: tuple[float, ...] = (), **by_code: int) -> Requests:
    histogram = Histogram()
    for seconds in latency:
        histogram.observe(seconds)
    return Requests({code.removeprefix("c"): count for code, count in by_code.items()}, histogram)


@pytest.mark.parametrize(
    ("text", "later", "value"),
    [
        ("error_ratio > 0", requests(c200=10), 0.0),
        ("error_ratio > 0", requests(c200=8, c503=1, none=3), 4 / 12 * 12 / 12),
        ("error_ratio > 0", requests(c403=10), 0.0),
        ("error_ratio(4xx) > 0", requests(c403=10), 1.0),
        ("error_ratio > 0", requests(), None),
        ("request_rate > 0", requests(c200=8, c503=2), 5.0),
        ("request_rate(5xx) > 0", requests(c200=8, c503=2), 1.0),
        ("request_rate < 1", requests(), 0.0),
        ("latency > 1s", requests(), None),
        ("latency(0.5) > 1s", requests((0.001, 0.001, 0.1)), 2**20 / 1e9),
        ("latency(1) > 1s", requests((0.001, 0.001, 0.1)), 2**27 / 1e9),
    ],
)
def test_a_measure_is_of_what_ended_between_two_readings(text: str, later: Requests, value: float | None) -> None:
    assert measure(parse_abort_when(text), requests(), later, 2.0) == (None if value is None else pytest.approx(value))


def test_it_has_to_hold_all_through_its_duration() -> None:
    check = AbortCheck(parse_abort_when("error_ratio > 0.5 for 3s"))
    good = bad = 0
    said = []
    for tick in range(100):
        now = tick * 0.2
        failing = 2.0 <= now < 4.5 or now >= 8.0
        good, bad = good + (not failing), bad + failing
        said.append((now, check.feed(now, requests(c200=good, c500=bad))))
    times = [now for now, reason in said if reason]
    assert 11.0 <= times[0] <= 12.0, "not after the first, shorter spell"
    assert "error_ratio > 0.5 for 3s held (error_ratio " in str(said[-1][1])


def test_no_request_at_all_is_no_error_but_no_rate_either() -> None:
    errors, rate = AbortCheck(parse_abort_when("error_ratio > 0.5 for 1s")), AbortCheck(parse_abort_when("request_rate < 1 for 1s"))
    reasons = [(errors.feed(now / 5, requests(c500=7)), rate.feed(now / 5, requests(c500=7))) for now in range(20)]
    assert [reason for reason, _ in reasons if reason] == []
    assert reasons[-1][1] == "request_rate < 1 for 1s held (request_rate 0)"
