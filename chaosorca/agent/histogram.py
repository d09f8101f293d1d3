"""Latency histograms as the kernel programs keep them, and as Prometheus wants them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from chaosorca.agent.linux.packet_socket import FIRST_SLOT, SLOT_BOUNDS, SLOTS


@dataclass
class Histogram:
    """Counts by slot (not cumulative) and the sum of all durations in seconds."""

    slots: list[int] = field(default_factory=lambda: [0] * SLOTS)
    sum: float = 0.0

    def observe(self, seconds: float) -> None:
        """Add one duration."""
        slot = next((i for i, bound in enumerate(SLOT_BOUNDS) if seconds < bound), SLOTS - 1)
        self.slots[slot] += 1
        self.sum += seconds

    def merge(self, other: Histogram) -> None:
        """Add all durations of another one."""
        self.slots = [a + b for a, b in zip(self.slots, other.slots, strict=True)]
        self.sum += other.sum

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram([a + b for a, b in zip(self.slots, other.slots, strict=True)], self.sum + other.sum)

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as `HistogramMetricFamily` takes them."""
        result: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip([*map(str, SLOT_BOUNDS), "+Inf"], self.slots, strict=True):
            total += count
            result.append((bound, total))
        return result


def histogram_of(nanoseconds: list[int]) -> Histogram:
    """The histogram of many durations."""
    slots = [0] * SLOTS
    for bits, count in Counter(map(int.bit_length, nanoseconds)).items():  # less than two to the power of its bits, not of fewer
        slots[min(max(bits - FIRST_SLOT, 0), SLOTS - 1)] += count
    return Histogram(slots, sum(nanoseconds) / 1e9)
