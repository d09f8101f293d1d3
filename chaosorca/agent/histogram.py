"""Latency histograms, as the eBPF programs keep them and as Prometheus reads them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

FIRST_SLOT = 8
SLOTS = 28
SLOT_BOUNDS = [2 ** (FIRST_SLOT + i) / 1e9 for i in range(SLOTS - 1)]
"""Upper bounds of the slots in seconds: 256 ns to 17 s in powers of two. The last slot has no upper bound."""


@dataclass
class Histogram:
    """Counts by slot (not cumulative), and the sum of all durations in seconds."""

    slots: list[int] = field(default_factory=lambda: [0] * SLOTS)
    sum: float = 0.0

    def observe(self, seconds: float) -> None:
        """Add one duration."""
        slot = next((i for i, bound in enumerate(SLOT_BOUNDS) if seconds < bound), SLOTS - 1)
        self.slots[slot] += 1
        self.sum += seconds

    def merge(self, other: Histogram) -> None:
        """Add all durations of another histogram."""
        self.slots = [a + b for a, b in zip(self.slots, other.slots, strict=True)]
        self.sum += other.sum

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram([a + b for a, b in zip(self.slots, other.slots, strict=True)], self.sum + other.sum)

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulative counts by upper bound, in the format of `HistogramMetricFamily`."""
        result: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip([*map(str, SLOT_BOUNDS), "+Inf"], self.slots, strict=True):
            total += count
            result.append((bound, total))
        return result


def histogram_of(nanoseconds: list[int]) -> Histogram:
    """Return the histogram of a list of durations."""
    slots = [0] * SLOTS
    for bits, count in Counter(
        map(int.bit_length, nanoseconds)
    ).items():  # a number of n bits is at least 2 ** (n - 1) and below 2 ** n
        slots[min(max(bits - FIRST_SLOT, 0), SLOTS - 1)] += count
    return Histogram(slots, sum(nanoseconds) / 1e9)
