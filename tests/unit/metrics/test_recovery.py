"""Recovery of a service, judged by scraped samples."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest

from chaosorca.exceptions import NoData
from chaosorca.metrics.recovery import (
    SIGNIFICANCE,
    Interval,
    Recovery,
    Span,
    failure_ratio,
    is_conclusive,
    is_steady,
    latest,
    read_intervals,
    recovery,
    time_to_recover,
)
from tests.support.fakes import START

REQUESTS = 'chaosorca_http_requests_total{job="chaosorca",container="web",role="server"}'
PART = 'chaosorca_http_requests_total{job="chaosorca",container="web",role="server",code=~"5..|none"}'
UNMONITORED, IDLE = None, math.nan


def recovered_after(found: Sequence[Interval], ended: float, normal: float) -> float | None:
    """Return when the service has recovered, if the requests are conclusive."""
    what = recovery(found, ended, normal)
    return what.after if what and what.conclusive else None


def intervals(*shares: float | None) -> list[Interval]:
    """Return intervals of one second from 0 on.

    Each has ten requests with a failure ratio, or is IDLE (without requests) or UNMONITORED (without a scrape).
    """
    found = []
    for at, share in enumerate(shares):
        requests = {True: None, False: 10.0}[share is UNMONITORED]
        if share is not UNMONITORED and math.isnan(share):
            requests, share = 0.0, 0.0
        found.append(Interval(at, at + 1.0, requests, (share or 0.0) * 10))
    return found


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ([(1, 2)], [(1, 2)]),
        ([(1, 2), (33, 40)], [(33, 40)]),
        ([(33, 40), (1, 2)], [(33, 40)]),
        ([(1, 4), (33, 40)], [(1, 4), (33, 40)]),  # the first would be in the steady state of the second
        ([(1, 50), (33, 40)], [(1, 50), (33, 40)]),
        ([(0, 10), (30, 60), (70, 80)], [(0, 10), (30, 60), (70, 80)]),
        ([(0, 10), (41, 60), (70, 80)], [(41, 60), (70, 80)]),
    ],
)
def test_faults_with_a_short_gap_are_one_disturbance(faults: list[Span], expected: list[Span]) -> None:
    assert latest(faults) == expected


@pytest.mark.parametrize(
    ("shares", "begins", "expected"),
    [
        ([0, 0, 0], 3, 0),
        ([0, 0.1, 0.5], 3, 0.2),
        ([0, 0.1, 0.5, 1], 3, 0.2),
        ([0, 0, 0.9], 2, 0),
        ([0, 0, 0.9], 2.5, 0),
        ([IDLE, 0.2, UNMONITORED], 3, 0.2),
        ([IDLE, UNMONITORED, IDLE], 3, None),
        ([0], 0.5, None),
        ([], 1, None),
    ],
)
def test_the_steady_state_is_the_failure_ratio_before_the_fault(
    shares: Sequence[float | None], begins: float, expected: float | None
) -> None:
    assert failure_ratio(intervals(*shares), begins) == expected


@pytest.mark.parametrize(
    ("shares", "ended", "expected"),
    [
        ([1, 1, 0, 0, 0], 1.4, 0.6),  # failures in the interval of the fault's end may precede the end
        ([1, 0, 0, 0], 1.4, 0),
        ([1, 1, 0, 0, 0], 2, 0),
        ([1, 1, 0.5, 0.2, 0, 0, 0], 1, 3),
        ([1, 1, 0, 1, 0, 0, 0], 1, 3),  # one good interval among bad ones
        ([1, 1, 0, 0, 1, 0, 0, 0], 1, 4),
        ([1, 1, 0, 0], 1, None),  # too few good intervals yet
        ([1, 1, 1, 1, 1], 1, None),
        ([0, 0, 0, 1, 0, 0, 0], 3, 1),  # intervals before the fault's end are ignored
        ([1, IDLE, IDLE, 0, 0, 0], 1, 3),  # unknown until requests end again
        ([1, IDLE, 1, 0, 0, 0], 1, 2),
        ([1, 0, IDLE, 0, IDLE, 0], 1, 0),  # intervals without requests do not count
        ([1, 1, 0, IDLE, IDLE, IDLE, IDLE, IDLE], 1, None),  # one answer, then the service hangs
        ([1, IDLE, IDLE, IDLE, IDLE], 1, None),
        ([1, UNMONITORED, 0, 0, 0], 1, 2),
        ([1, 0, 0, UNMONITORED, 0, 0, 0], 1, 4),
        ([], 1, None),
        ([1, 0, 0, 0, 1, 1, 0], 1, 0),  # it has recovered
        ([1, 0, 0, 0, 1, 1, 1, 0], 1, None),  # the recovery is undone
        ([1, 0, 0, 0, 1, 1, 1, 0, 0, 0], 1, 6),
        ([1, 0, 0, 0, IDLE, UNMONITORED], 1, 0),
    ],
)
def test_recovery_needs_intervals_that_stay_in_the_steady_state(
    shares: Sequence[float | None], ended: float, expected: float | None
) -> None:
    found = recovered_after(intervals(*shares), ended, 0.0)
    assert found == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(("requests", "normal"), [(1, 1 / 30), (1, 0.3), (2, 2 / 60), (3, 0.1), (5, 0.26)])
def test_few_requests_that_all_fail_are_no_recovery(requests: int, normal: float) -> None:
    assert is_steady(requests, requests, normal), "one interval alone is not conclusive"
    wrong = [Interval(at, at + 1.0, requests, requests) for at in range(60)]
    assert recovered_after(wrong, 0, normal) is None
    right = [Interval(at, at + 1.0, requests) for at in range(60, 400)]
    began = recovered_after(wrong + right, 0, normal)
    assert began is not None
    assert 55 <= began <= 60, "some consecutive failures agree with the steady state"


def test_failures_of_the_steady_state_do_not_prevent_recovery() -> None:
    assert recovered_after(intervals(1, 1, 0.1, 0.3, 0.1, 0, *[0.1] * 8), 1, 0.1) == pytest.approx(1)
    assert recovered_after(intervals(1, 1, 0.1, 0.6, 0.1, 0, *[0.1] * 8), 1, 0.1) == pytest.approx(3), (
        "6 of 10 are outside the steady state"
    )
    assert recovery(intervals(1, 1, 0.1, 0.3, 0.1), 1, 0.1) == Recovery(1, 30, False), (
        "30 requests are too few where 3 fail in the steady state"
    )
    assert recovered_after(intervals(1, 1, 0.4, 0.4, 0.4, 0.4), 1, 0.1) is None, (
        "each interval alone agrees with the steady state, but all together do not"
    )
    assert recovered_after(intervals(1, 1, 1, 1), 1, 1.0) == 0


@pytest.mark.parametrize("requests", [1, 10, 50, 200])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99, 1.0])
def test_the_binomial_test_agrees_with_exact_probabilities(requests: int, share: float) -> None:
    p, chance = Fraction(share), Fraction(0)
    for wrong in range(requests, -1, -1):
        chance += math.comb(requests, wrong) * p**wrong * (1 - p) ** (requests - wrong)
        assert is_steady(wrong, requests, share) is (wrong <= share * requests or chance >= SIGNIFICANCE), wrong


@pytest.mark.parametrize(
    ("requests", "share", "expected"),
    [
        (16, 0, False),
        (17, 0, True),
        (30, 0.01, False),
        (50, 0.01, True),
        (50, 0.1, False),
        (100, 0.1, True),
        (100, 0.5, False),
        (200, 0.5, True),
        (65, 0.9, False),
        (66, 0.9, True),
        (1, 1.0, True),
    ],
)
def test_enough_requests_reveal_a_larger_failure_ratio(requests: int, share: float, expected: bool) -> None:
    assert is_conclusive(requests, share) is expected


def test_the_binomial_test_works_for_many_requests() -> None:
    assert is_steady(500_000 + 1500, 1_000_000, 0.5), "three standard deviations"
    assert not is_steady(500_000 + 1600, 1_000_000, 0.5)


Web = Callable[..., Any]


@pytest.fixture
def web(prometheus: Any, series: Any) -> Web:
    """Return a function that gives a Prometheus with scrapes of `web` every second from -40 to `now`.

    The service gets ten requests per second. Their code is 500 in the seconds of `wrong`, else 200.
    """

    def make(wrong: Sequence[int], now: int = 20, without: Sequence[int] = (), idle: Sequence[int] = ()) -> Any:
        times = [at for at in range(-40, now + 1) if at not in without]
        ok = {at: 10 * sum(one not in wrong and one not in idle for one in range(-40, at + 1)) for at in times}
        bad = {at: 10 * sum(one in wrong for one in range(-40, at + 1)) for at in times}
        present = [at for at in times if bad[at]]
        if present and present[0] > -40:  # the exporter gives a new series as 0 in its first scrape
            bad[present[0]] = 0
        labels = {"container": "web", "role": "server"}
        found = [
            series("chaosorca_monitored", dict.fromkeys(times, 1), container="web", monitor="http"),
            series("chaosorca_http_requests_total", ok, code="200", **labels),
            series("chaosorca_http_requests_total", {at: bad[at] for at in present}, code="500", **labels),
            series("chaosorca_http_requests_total", dict.fromkeys(times, 7), code="500", container="web", role="client"),
        ]
        return prometheus(found, now=START + now)

    return make


def recover(prometheus: Any, within: float = 10, sleep: Callable[[float], None] | None = None, begins: float = 0) -> float:
    def never(_: float) -> None:
        raise AssertionError("it must not wait")

    return time_to_recover(prometheus, "web", REQUESTS, PART, (START + begins, START + begins + 5), within, sleep or never)


def test_intervals_are_read_from_counters(web: Web) -> None:
    found = read_intervals(web(wrong=[2], without=[4]), "web", REQUESTS, PART, START - 1, START + 6)
    assert [(one.since - START, one.until - START, one.requests, one.failed) for one in found] == [
        (0, 1, 10, 0),
        (1, 2, 0, 0),  # the new series is 0 here and has its value one scrape later
        (2, 3, 20, 10),
        (3, 5, 20, 0),
        (5, 6, 10, 0),
    ]


def test_intervals_without_monitoring_have_no_requests(web: Web) -> None:
    found = read_intervals(web(wrong=[], without=[2, 3, 4]), "web", REQUESTS, PART, START - 1, START + 6)
    assert [one.requests for one in found] == [10, None, 10]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [(range(1, 6), 0), (range(1, 9), 3), ([*range(1, 6), 8], 3), ([-7, *range(1, 8)], 2), ([], 0)],
)
def test_the_time_counts_from_the_faults_end(wrong: Sequence[int], expected: float, web: Web) -> None:
    assert recover(web(wrong)) == expected


class Passing:
    """A Prometheus whose time advances by a second with every sleep."""

    def __init__(self, at: Callable[[int], Any], now: int = 6) -> None:
        self.now = now
        self._at = at
        self.source = at(now)

    def sleep(self, _: float) -> None:
        """Advance by a second."""
        self.now += 1
        later = self._at(self.now)
        self.source.series, self.source.numbers["time()"] = later.series, later.numbers["time()"]


def test_it_waits_for_the_recovery(web: Web) -> None:
    time = Passing(lambda now: web(range(1, 9), now=now))
    assert recover(time.source, sleep=time.sleep) == 3
    assert time.now == 11, "three intervals after 8 were good"


def test_a_service_that_does_not_recover_is_an_error_with_figures(web: Web) -> None:
    time = Passing(lambda now: web(range(1, 100), now=now))
    with pytest.raises(NoData) as failed:
        recover(time.source, sleep=time.sleep)
    assert str(failed.value) == (
        "container 'web' has not recovered within 10 s from its fault's end at 2023-11-14T22:13:25.000Z: 100.0% of the last "
        f"30 requests until 2023-11-14T22:13:40.000Z failed ({PART}), compared with 0.0% before the fault"
    )
    assert time.now == 20, "it waited until 15, and for four more scrapes"


def slow_web(prometheus: Any, series: Any, now: int, every: int = 3) -> Any:
    """Return a Prometheus with a service that gets one request every so many seconds. All requests from 0 to 5 fail."""
    times = range(-40, now + 1)
    asked = range(-40, now + 1, every)
    labels = {"container": "web", "role": "server"}
    found = [series("chaosorca_monitored", dict.fromkeys(times, 1), container="web", monitor="http")]
    for code, wrong in (("200", False), ("500", True)):
        count = {at: sum(one <= at and (0 < one <= 5) is wrong for one in asked) for at in times}
        found.append(series("chaosorca_http_requests_total", count, code=code, **labels))
    return prometheus(found, now=START + now)


@pytest.mark.parametrize("within", [4, 10, 30])
def test_it_waits_for_enough_requests(within: float, prometheus: Any, series: Any) -> None:
    """The result does not depend on when the probe is called."""
    time = Passing(lambda now: slow_web(prometheus, series, now))
    assert recover(time.source, within, time.sleep) == recover(slow_web(prometheus, series, 200), within) == 3
    assert time.now == 56, "conclusive when seventeen requests have ended"


def test_too_few_requests_are_an_error(prometheus: Any, series: Any) -> None:
    time = Passing(lambda now: slow_web(prometheus, series, now, 40))
    with pytest.raises(NoData) as failed:
        recover(time.source, 45, time.sleep)
    assert str(failed.value) == (
        f"{REQUESTS} grew by only 2 since 35 s after the end of the fault on container 'web': these requests are in the steady "
        "state but too few to prove recovery, so increase the load"
    )
    assert time.now == 5 + 45 + 60 + 4 + 1


def test_a_recovery_that_took_too_long_is_an_error(web: Web) -> None:
    with pytest.raises(NoData, match=r"^container 'web' took 12 s to recover from its fault, more than the permitted 10 s$"):
        recover(web(range(1, 18), now=30))


@pytest.mark.parametrize(
    ("how", "begins", "says"),
    [
        (
            {"wrong": [], "idle": range(-40, 1)},
            0,
            f"{REQUESTS} did not grow in the 30 s before the fault on container 'web', which",
        ),
        ({"wrong": []}, -39.5, f"{REQUESTS} did not grow in the 30 s before the fault on container 'web', which began at 2023-"),
        (
            {"wrong": [], "idle": range(5, 40), "now": 30},
            0,
            f"{REQUESTS} did not grow after the fault's end at 2023-11-14T22:13:25",
        ),
        ({"wrong": range(1, 40), "without": range(10, 40), "now": 39}, 0, "chaosorca_monitored{"),
    ],
)
def test_missing_monitoring_or_requests_are_an_error(how: dict[str, Any], begins: float, says: str, web: Web) -> None:
    with pytest.raises(NoData, match=f"^{re.escape(says)}"):
        recover(web(**how), begins=begins)


def test_a_container_that_was_never_monitored_is_an_error(prometheus: Any) -> None:
    with pytest.raises(NoData, match=r"the http monitor is not attached to container 'web'"):
        recover(prometheus([]))
