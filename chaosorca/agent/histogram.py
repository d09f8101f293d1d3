"""Latency histograms as the kernel programs keep them, and as Prometheus wants them."""

from __future__ import annotations

from dataclasses import dataclass, field

from chaosorca.agent.kernel import SLOT_BOUNDS, SLOTS


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
