"""Checks a fault's condition `abort_when` against the agent's own counters."""

from __future__ import annotations

import re
from collections import deque

from chaosorca.agent.histogram import SLOT_BOUNDS
from chaosorca.agent.monitors.requests import Requests
from chaosorca.model.abort import AbortCondition

WINDOW = 1.0
"""Seconds over which the measure is taken."""


class AbortCheck:
    """Checks one condition repeatedly. While no request ends, the condition does not hold."""

    def __init__(self, condition: AbortCondition) -> None:
        self.condition = condition
        self._samples: deque[tuple[float, Requests]] = deque()
        self._held_since: float | None = None

    def feed(self, now: float, requests: Requests) -> str | None:
        """Check the condition with new counters.

        Arguments:
            now: the time of the monotonic clock, in seconds.
            requests: the counters.

        Returns:
            the reason to end the fault if the condition has held for its whole duration; None otherwise.
        """
        self._samples.append((now, requests))
        # The newest sample is compared with the latest sample that is at least a window old.
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW:
            self._samples.popleft()
        begin, earlier = self._samples[0]
        value = measure(self.condition, earlier, requests, now - begin) if now > begin else None
        if value is None or not self.condition.is_met_by(value):
            self._held_since = None
            return None
        if self._held_since is None:
            self._held_since = now
        if now - self._held_since < self.condition.seconds:
            return None
        return f"{self.condition.text} held ({self.condition.measure} {value:.3g})"


def measure(condition: AbortCondition, earlier: Requests, later: Requests, seconds: float) -> float | None:
    """Return the measure of a condition between two readings.

    Arguments:
        condition: what is measured.
        earlier, later: the readings.
        seconds: the time between the readings.

    Returns:
        requests/s, a share from 0 to 1, or seconds; None if no request ended between the readings.
    """
    ended = {code: count - earlier.by_code.get(code, 0) for code, count in later.by_code.items()}
    counted = sum(count for code, count in ended.items() if re.fullmatch(condition.status, code))
    if condition.measure == "request_rate":
        return counted / seconds
    if condition.measure == "error_ratio":
        total = sum(ended.values())
        return counted / total if total > 0 else None
    slots = [after - before for before, after in zip(earlier.latency.slots, later.latency.slots, strict=True)]
    return _quantile(condition.quantile, slots)


def _quantile(q: float, slots: list[int]) -> float | None:
    """Return the upper bound of the quantile's slot, so that a latency is never underestimated."""
    total = sum(slots)
    if total <= 0:
        return None
    so_far = 0
    for bound, count in zip([*SLOT_BOUNDS, float("inf")], slots, strict=True):
        so_far += count
        if count and so_far >= q * total:
            return float(bound)
    return None
