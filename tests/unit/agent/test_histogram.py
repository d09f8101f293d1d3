"""Latency histograms."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from chaosorca.agent.histogram import SLOT_BOUNDS, SLOTS, Histogram


def test_bounds_are_powers_of_two_from_256_ns_to_17_s() -> None:
    assert (SLOTS, len(SLOT_BOUNDS)) == (28, 27)
    assert SLOT_BOUNDS[0] == 256e-9
    assert SLOT_BOUNDS[-1] == pytest.approx(17.179869184)
    assert all(later == pytest.approx(2 * earlier) for earlier, later in pairwise(SLOT_BOUNDS))


@pytest.mark.parametrize(
    ("seconds", "slot"),
    [
        (0.0, 0),
        (255e-9, 0),
        (257e-9, 1),
        (511e-9, 1),
        (513e-9, 2),
        (1e-6, 2),
        (0.001, 12),
        (0.1, 19),
        (1.0, 22),
        (17.0, 26),
        (17.2, 27),
        (3600.0, 27),
    ],
)
def test_a_duration_is_in_the_slot_between_its_bounds(seconds: float, slot: int) -> None:
    histogram = Histogram()
    histogram.observe(seconds)
    assert [index for index, count in enumerate(histogram.slots) if count] == [slot]
    assert histogram.sum == seconds
    assert seconds < (SLOT_BOUNDS[slot] if slot < SLOTS - 1 else math.inf)
    assert slot == 0 or seconds >= SLOT_BOUNDS[slot - 1]


def test_buckets_are_cumulative() -> None:
    histogram = Histogram()
    for seconds in (100e-9, 300e-9, 300e-9, 60.0):
        histogram.observe(seconds)
    buckets = histogram.buckets()
    assert [float(bound) for bound, _ in buckets] == [*SLOT_BOUNDS, math.inf]
    assert [count for _, count in buckets] == [1, *[3] * 26, 4]
    assert buckets[-1][0] == "+Inf"
    assert histogram.sum == pytest.approx(60.0000007)


def test_histograms_add_up_slot_by_slot() -> None:
    one, other = Histogram(), Histogram()
    one.observe(1.0)
    other.observe(1.0)
    other.observe(100.0)
    both = one + other
    assert (both.slots[22], both.slots[27], sum(both.slots), both.sum) == (2, 1, 3, 102.0)
    assert (sum(one.slots), sum(other.slots)) == (1, 2)


def test_histograms_do_not_share_their_slots() -> None:
    Histogram().observe(1.0)
    assert (sum(Histogram().slots), len(Histogram().slots), Histogram().sum) == (0, SLOTS, 0.0)
