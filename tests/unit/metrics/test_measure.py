"""Figures about containers: what is 0 and what is an error."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from chaosorca.exceptions import NoData, PrometheusError
from chaosorca.metrics.measure import check_monitored, figure, rate, ratio, scrape_interval, wait_for_scrapes

START = 1_700_000_000.0
SERIES = 'chaosorca_monitored{job="chaosorca",container="web",monitor="http"}'


@pytest.fixture
def monitored(prometheus: Any, series: Any) -> Any:
    """Return a function that gives a Prometheus with samples of `web` by age in seconds, and some values."""

    def make(ages: list[float], numbers: dict[str, float] | None = None) -> Any:
        found = [series("chaosorca_monitored", {-age: 1 for age in ages}, container="web", monitor="http")]
        return prometheus(found if ages else [], numbers)

    return make


@pytest.mark.parametrize(
    ("ages", "window"),
    [
        ([2, 1, 0], 15),
        ([1, 0], 15),
        ([3, 2, 1], 15),
        ([6, 4.5, 3], 15),  # two scrapes ago
        ([10, 5], 15),
        ([60, 30, 0.5], 60),
        ([2, 1.5, 1, 0.5], 1.2),
    ],
)
def test_a_monitored_container_passes(monitored: Any, ages: list[float], window: float) -> None:
    check_monitored(monitored(ages), "web", "http", window)


@pytest.mark.parametrize(
    ("ages", "window", "says"),
    [
        ([], 15, f"{SERIES} is empty at http://prometheus.test: the http monitor is not attached to container 'web'"),
        ([400, 399], 15, f"{SERIES} is empty"),
        ([1], 15, f"{SERIES} has only one sample: wait for a second scrape"),
        ([7, 6, 5, 4], 15, f"{SERIES} is stale, without a sample for 4.0 s or 3 scrapes"),
        ([4, 3.5, 3], 15, f"{SERIES} is stale, without a sample for 3.0 s or 3 scrapes"),
        ([2, 1, 0], 1, f"{SERIES} has fewer than two samples in the last 1 s"),
        ([10, 5, 0], 5, f"{SERIES} has fewer than two samples in the last 5 s"),
        ([60, 30, 10], 15, f"{SERIES} has fewer than two samples in the last 15 s"),
    ],
)
def test_missing_monitoring_is_an_error_that_names_the_series(monitored: Any, ages: list[float], window: float, says: str) -> None:
    with pytest.raises(NoData, match=re.escape(says)):
        check_monitored(monitored(ages), "web", "http", window)


def test_monitoring_by_another_monitor_or_of_another_container_does_not_count(prometheus: Any, series: Any) -> None:
    source = prometheus(
        [
            series("chaosorca_monitored", {-1: 1, 0: 1}, container="web", monitor="syscalls"),
            series("chaosorca_monitored", {-1: 1, 0: 1}, container="db", monitor="http"),
        ]
    )
    with pytest.raises(NoData, match="is empty"):
        check_monitored(source, "web", "http", 15)


def test_the_newest_of_several_agents_counts(prometheus: Any, series: Any) -> None:
    labels = {"container": "web", "monitor": "http"}
    old = series("chaosorca_monitored", {-60: 1, -59: 1}, instance="old", **labels)
    new = series("chaosorca_monitored", {-1: 1, 0: 1}, instance="new", **labels)
    check_monitored(prometheus([old, new]), "web", "http", 15)
    check_monitored(prometheus([new, old]), "web", "http", 15)


@pytest.mark.parametrize(
    ("answer", "expected"), [({}, 0.0), ({"sum(rate(m[15000ms]))": 2.5}, 2.5), ({"sum(rate(m[15000ms]))": 0}, 0.0)]
)
def test_a_rate_without_series_is_a_true_zero_while_monitored(monitored: Any, answer: dict[str, float], expected: float) -> None:
    result = rate(monitored([1, 0], answer), "m", "web", "http", 15)
    assert (result, type(result)) == (expected, type(expected))


def test_a_rate_of_an_unmonitored_container_is_an_error(monitored: Any) -> None:
    with pytest.raises(NoData, match="monitor is not attached"):
        rate(monitored([], {"sum(rate(m[15000ms]))": 2.5}), "m", "web", "http", 15)


SHARE = "(sum(rate(part[15000ms])) or vector(0)) / sum(rate(whole[15000ms]))"


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_ratio_is_one_expression_in_which_a_missing_part_is_zero(monitored: Any, share: float) -> None:
    assert ratio(monitored([1, 0], {SHARE: share}), "part", "whole", "web", "http", 15) == share


@pytest.mark.parametrize("answer", [{}, {SHARE: math.nan}])
def test_a_ratio_without_requests_is_an_error(monitored: Any, answer: dict[str, float]) -> None:
    with pytest.raises(NoData, match=r"^whole did not grow in the last 15 s"):
        ratio(monitored([1, 0], answer), "part", "whole", "web", "http", 15)


def test_a_ratio_of_an_unmonitored_container_is_an_error(monitored: Any) -> None:
    with pytest.raises(NoData, match="monitor is not attached"):
        ratio(monitored([], {SHARE: 0.5}), "part", "whole", "web", "http", 15)


@pytest.mark.parametrize(
    ("times", "interval"),
    [([], None), ([5], None), ([0, 1], 1), ([0, 1, 2, 3], 1), ([0, 1, 2, 60, 61], 1), ([0, 0.5, 1], 0.5)],
)
def test_the_scrape_interval_is_the_median(times: list[float], interval: float | None) -> None:
    assert scrape_interval([(at, 1.0) for at in times]) == interval


@pytest.mark.parametrize(("ages", "scrapes"), [([0], 1), ([-1, -2], 2)])
def test_waiting_ends_with_the_scrapes_from_now_on(prometheus: Any, series: Any, ages: list[float], scrapes: int) -> None:
    source = prometheus([series("chaosorca_monitored", {-age: 1 for age in ages}, container="web", monitor="http")])
    times = iter([START, *[START + 3] * 9])
    source.number = lambda expression: next(times)
    source.samples = lambda selector, seconds, end=None: source.series
    wait_for_scrapes(source, ["web"], scrapes, within=5)


def test_waiting_for_missing_scrapes_names_the_containers(prometheus: Any, series: Any) -> None:
    old = [
        series("chaosorca_monitored", {-2: 1, -1: 1}, container="web", monitor="http"),
        series("chaosorca_monitored", {0: 1}, container="db", monitor="http"),
    ]
    with pytest.raises(PrometheusError, match=r"has not scraped the agent 1 times in 0\.1 s for api, web: "):
        wait_for_scrapes(prometheus(old), ["web", "db", "api"], 1, within=0.1)


def test_a_figure_is_the_value_of_its_expression(monitored: Any) -> None:
    assert figure(monitored([2, 1, 0], {"x": 0.25}), "x", "web", "http", 15, "why") == 0.25
    assert figure(monitored([2, 1, 0], {"x": 0.0}), "x", "web", "http", 15, "why") == 0.0


@pytest.mark.parametrize(
    ("ages", "numbers", "says"),
    [
        ([2, 1, 0], {}, "x has no value for the last 15 s: why"),
        ([2, 1, 0], {"x": math.nan}, "x has no value for the last 15 s: why"),
        ([], {"x": 1.0}, "monitor is not attached"),
        ([9, 8], {"x": 1.0}, "is stale, without a sample for 8.0 s"),
    ],
)
def test_a_missing_value_is_an_error(monitored: Any, ages: list[float], numbers: dict[str, float], says: str) -> None:
    with pytest.raises(NoData, match=re.escape(says)):
        figure(monitored(ages, numbers), "x", "web", "http", 15, "why")
