"""Arithmetic on scraped samples: increases of counters between scrapes, and quantiles of histograms.

All columns share an axis: the times of the scrapes in which the container was monitored. A counter is 0 before its first
sample, because no event has happened yet.
"""

from __future__ import annotations

from collections.abc import Sequence

from chaosorca.metrics.query import Samples

Column = list[float | None]


def thin(axis: Sequence[float], step: float) -> list[float]:
    """Select times from the axis that are at least `0.75 * step` seconds apart."""
    result: list[float] = []
    for at in axis:
        if not result or at - result[-1] >= step * 0.75:
            result.append(at)
    return result


def increases(axis: Sequence[float], samples: Samples, gap: float, begins_at_zero: bool = True) -> Column:
    """Return the increase of a counter between successive times of the axis.

    Arguments:
        axis: the times of scrapes, in order.
        samples: the counter's samples, at some of these times. A decrease is a counter reset.
        gap: an interval longer than this many seconds counts as not monitored.
        begins_at_zero: whether the counter is 0 before its first sample. Otherwise the counter is unknown before that sample.

    Returns:
        for each time, the increase since the previous time. The increase is None at the first time, after a gap, and where the
        counter is unknown. A new series is exported as 0 for one scrape (see `agent.export.first_seen`), so its first increase may
        appear one scrape late.
    """
    values = {round(at, 3): value for at, value in samples}
    result: Column = []
    before: float | None = None
    previous: float | None = None
    for at in axis:
        # A series that is missing from a scrape keeps its last value.
        value = values.get(round(at, 3), 0.0 if before is None and begins_at_zero else before)
        if previous is None or at - previous > gap:
            result.append(None)
        elif value is None or before is None:
            result.append(None if value is None else 0.0)
        else:
            result.append(value - before if value >= before else value)
        previous, before = at, value
    return result


def per_second(axis: Sequence[float], grown: Column, window: float = 0.0) -> Column:
    """Convert the increases between scrapes to rates per second. With a window in seconds, each rate is a mean over that window."""
    result: Column = []
    for index, value in enumerate(grown):
        if value is None:
            result.append(None)
            continue
        start, total = index - 1, value
        while start > 0 and axis[index] - axis[start] < window and (more := grown[start]) is not None:
            total += more
            start -= 1
        result.append(total / (axis[index] - axis[start]))
    return result


def add(columns: Sequence[Column]) -> Column:
    """Return the sum of columns on one axis. A value of the sum is None if any of its terms is None."""
    return [
        None if any(value is None for value in row) else sum(value or 0.0 for value in row) for row in zip(*columns, strict=True)
    ]


def quantile(q: float, buckets: Sequence[tuple[float, float]]) -> float | None:
    """Return the q-quantile of a histogram, interpolated as in Prometheus's `histogram_quantile()`.

    Arguments:
        q: 0 to 1.
        buckets: upper bounds and cumulative counts, in order. The last bound is infinity.

    Returns:
        the quantile; None if the histogram is empty.
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    rank = q * total
    lower_bound = lower_count = 0.0
    for bound, count in buckets:
        if count >= rank and count > 0:
            if bound == float("inf"):
                return lower_bound
            return lower_bound + (bound - lower_bound) * (rank - lower_count) / (count - lower_count)
        lower_bound, lower_count = bound, count
    return lower_bound
