"""Arithmetic on scraped samples."""

from __future__ import annotations

import math
from typing import Any

import pytest

from chaosorca.metrics.series import add, increases, per_second, quantile, thin

INF = math.inf


@pytest.mark.parametrize(
    ("axis", "step", "left"),
    [
        ([], 1, []),
        ([5.0], 1, [5.0]),
        ([0.0, 1.0, 2.0, 3.0], 0, [0.0, 1.0, 2.0, 3.0]),
        ([0.0, 1.0, 2.0, 3.0], 1, [0.0, 1.0, 2.0, 3.0]),
        ([0.0, 0.99, 2.01, 2.99], 1, [0.0, 0.99, 2.01, 2.99]),
        ([0.0, 1.0, 2.0, 3.0, 4.0], 2, [0.0, 2.0, 4.0]),
        ([0.0, 1.0, 2.0, 3.0, 4.0], 4, [0.0, 3.0]),
        ([0.0, 1.0, 2.0, 3.0], 100, [0.0]),
        ([0.0, 1.0, 9.0, 10.0, 11.0], 2, [0.0, 9.0, 11.0]),
    ],
)
def test_thin_leaves_times_that_are_about_a_step_apart(axis: list[float], step: float, left: list[float]) -> None:
    assert thin(axis, step) == left


@pytest.mark.parametrize(
    ("axis", "samples", "grown"),
    [
        ([], [], []),
        ([0, 1, 2], [], [None, 0, 0]),
        ([0, 1, 2], [(0, 5), (1, 5), (2, 5)], [None, 0, 0]),
        ([0, 1, 2], [(0, 5), (1, 7), (2, 10)], [None, 2, 3]),
        ([0, 1, 2, 3], [(0, 5), (1, 7), (2, 3), (3, 4)], [None, 2, 3, 1]),  # counter reset
        ([0, 1, 2, 3], [(0, 5), (1, 0), (2, 0), (3, 2)], [None, 0, 0, 2]),
        ([0, 1, 2, 3], [(2, 0), (3, 27)], [None, 0, 0, 27]),  # first exported as 0
        ([0, 1, 2, 5, 6], [(2, 0), (5, 8), (6, 9)], [None, 0, 0, 8, 1]),
        ([0, 1, 2, 3, 4], [(2, 0), (3, 0), (4, 27)], [None, 0, 0, 0, 27]),
        ([0, 1, 2, 3], [(1, 0), (2, 27), (3, 27)], [None, 0, 27, 0]),
        ([0, 1, 2], [(0, 0), (1, 27), (2, 27)], [None, 27, 0]),
        ([0, 1, 2, 3], [(3, 0)], [None, 0, 0, 0]),
        ([0, 1, 9, 10, 11], [(9, 0), (10, 5), (11, 5)], [None, 0, None, 5, 0]),  # after a gap
        ([0, 1, 2, 3], [(2, 4), (3, 6)], [None, 0, 4, 2]),  # first exported with a value
        ([0, 1, 9, 10], [(0, 1), (1, 2), (9, 50), (10, 51)], [None, 1, None, 1]),  # a gap
        ([0, 3, 6], [(0, 1), (3, 2), (6, 3)], [None, 1, 1]),  # exactly as long as the limit, so not a gap
        ([0, 2], [(0, 1), (1, 2), (2, 4)], [None, 3]),  # samples between the axis's times
        ([0.0004, 1.0004], [(0.0, 1), (1.0, 3)], [None, 2]),  # the same to the millisecond
    ],
)
def test_an_increase_is_stamped_at_the_later_scrape(
    axis: list[float], samples: list[tuple[float, float]], grown: list[float | None]
) -> None:
    assert increases(axis, samples, gap=3) == grown


@pytest.mark.parametrize(
    ("samples", "grown"),
    [
        ([(0, 1000), (1, 1001), (2, 1003)], [None, 1, 2]),
        ([(1, 1000), (2, 1003)], [None, 0, 3]),
        ([], [None, None, None]),
        ([(0, 1000), (1, 1001)], [None, 1, 0]),
        ([(0, 1000), (2, 1003)], [None, 0, 3]),
    ],
)
def test_the_first_value_of_a_foreign_counter_is_not_an_increase(
    samples: list[tuple[float, float]], grown: list[float | None]
) -> None:
    assert increases([0, 1, 2], samples, gap=3, begins_at_zero=False) == grown


@pytest.mark.parametrize(
    ("axis", "grown", "window", "rates"),
    [
        ([], [], 0, []),
        ([0, 1, 2], [None, 2, 4], 0, [None, 2, 4]),
        ([0, 2, 4], [None, 2, 4], 0, [None, 1, 2]),
        ([0.0, 0.5], [None, 3], 0, [None, 6]),
        ([0, 1, 2, 3], [None, 3, 6, 0], 1, [None, 3, 6, 0]),
        ([0, 1, 2, 3], [None, 3, 6, 0], 2, [None, 3, 4.5, 3]),
        ([0, 1, 2, 3], [None, 3, 6, 0], 3, [None, 3, 4.5, 3]),
        ([0, 1, 2, 3], [None, 3, 6, 0], 99, [None, 3, 4.5, 3]),
        ([0, 1, 9, 10, 11], [None, 3, None, 4, 2], 99, [None, 3, None, 4, 3]),  # not over a gap
    ],
)
def test_per_second_divides_by_the_length_of_the_interval(
    axis: list[float], grown: list[float | None], window: float, rates: list[float | None]
) -> None:
    assert per_second(axis, grown, window) == rates


@pytest.mark.parametrize(
    ("first", "share"),
    [(0, [1.0, 0.0]), (1, [0.0, 1.0, 0.0]), (2, [0.0, 0.0, 1.0]), (3, [0.0, 0.0, 0.0, 1.0])],
    ids=["existing", "from the first row", "new", "new later"],
)
@pytest.mark.parametrize("interval", [0.25, 0.5, 1.0, 1.003, 2.0, 5.017])
@pytest.mark.parametrize("start", [0.0, 1_700_000_000.123])
def test_27_calls_are_exactly_27_when_multiplied_back(start: float, interval: float, first: int, share: list[float]) -> None:
    axis = [start + index * interval for index in range(6)]
    samples = [(at, 0.0 if index == first else 27.0) for index, at in enumerate(axis) if index >= first]
    grown = increases(axis, samples, gap=3 * interval)
    assert grown[: len(share) + 1] == [None, *(pytest.approx(27 * part) for part in share)]
    rates = per_second(axis, grown)
    assert rates[0] is None
    assert sum((rates[i] or 0) * (axis[i] - axis[i - 1]) for i in range(1, 6)) == pytest.approx(27, abs=1e-9)


@pytest.mark.parametrize(
    ("columns", "total"),
    [
        ([], []),
        ([[1.0, 2.0]], [1.0, 2.0]),
        ([[1.0, 2.0], [10.0, 20.0]], [11.0, 22.0]),
        ([[None, 2.0], [10.0, 20.0]], [None, 22.0]),
        ([[None, None], [None, 0.0]], [None, None]),
        ([[0.0], [0.0], [0.0]], [0.0]),
    ],
)
def test_a_sum_is_unknown_where_any_part_is_unknown(columns: list[Any], total: list[float | None]) -> None:
    assert add(columns) == total


def test_columns_of_different_axes_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="shorter"):
        add([[1.0, 2.0], [1.0]])


# Expected values calculated by hand: rank = q * total, linear within the first bucket whose count reaches the rank.
@pytest.mark.parametrize(
    ("q", "buckets", "expected"),
    [
        (0.5, [], None),
        (0.5, [(1.0, 0), (INF, 0)], None),
        (0.5, [(1.0, 10), (INF, 10)], 0.5),
        (0.95, [(1.0, 10), (INF, 10)], 0.95),
        (1.0, [(1.0, 10), (INF, 10)], 1.0),
        (0.5, [(1.0, 10), (2.0, 20), (INF, 20)], 1.0),
        (0.75, [(1.0, 10), (2.0, 20), (INF, 20)], 1.5),
        (0.9, [(0.1, 80), (0.2, 95), (0.4, 100), (INF, 100)], 0.1 + 0.1 * 10 / 15),
        (0.95, [(0.1, 80), (0.2, 95), (0.4, 100), (INF, 100)], 0.2),
        (0.99, [(0.1, 80), (0.2, 95), (0.4, 100), (INF, 100)], 0.2 + 0.2 * 4 / 5),
        (0.5, [(1.0, 0), (2.0, 0), (4.0, 8), (INF, 8)], 3.0),
        (0.99, [(1.0, 1), (2.0, 2), (INF, 10)], 2.0),  # in the last bucket: the highest finite bound
        (0.1, [(1.0, 1), (2.0, 2), (INF, 10)], 1.0),
        (0.5, [(1.0, 0.5), (2.0, 1.0), (INF, 1.0)], 1.0),  # rates instead of counts
    ],
)
def test_a_quantile_is_interpolated_as_prometheus_does(
    q: float, buckets: list[tuple[float, float]], expected: float | None
) -> None:
    assert quantile(q, buckets) == (expected if expected is None else pytest.approx(expected))
