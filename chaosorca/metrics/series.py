"""Arithmetic on scraped samples: what counters grew by between scrapes, and quantiles of histograms.

Everything happens on an axis: the times of the scrapes at which a container was monitored. A counter's series without a sample at
such a time is at 0 then, because nothing had happened yet.
"""

from __future__ import annotations

from collections.abc import Sequence

from chaosorca.metrics.query import Samples

Column = list[float | None]


def thin(axis: Sequence[float], step: float) -> list[float]:
    """Drop times so that those left are about a step or more apart."""
    result: list[float] = []
    for at in axis:
        if not result or at - result[-1] >= step * 0.75:
            result.append(at)
    return result


def growth(axis: Sequence[float], samples: Samples, gap: float, begins_at_zero: bool = True) -> Column:
    """What a counter grew by from each time of the axis to the next, stamped at the later one.

    Arguments:
        axis: the times of scrapes, in order.
        samples: the counter's samples, at some of these times; a smaller value than before is a counter that began again.
        gap: seconds between two times over which nothing is known, because nobody was monitoring in between.
        begins_at_zero: whether a counter without a sample yet is at 0; else it is not known.

    Returns:
        a value for each time: None at the first one and after a gap. A series that is new has the scrape's value 0 first (see
        `agent.exporter`), so what it begins with stands one scrape later than it may have happened.
    """
    values = {round(at, 3): value for at, value in samples}
    result: Column = []
    before: float | None = None
    previous: float | None = None
    for at in axis:
        # One that is missing from a scrape is where it was before.
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
    """Growth divided by the time that it took: between two times, or smoothed over the window of seconds before each."""
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
    """The sum of columns of one axis; None where any is."""
    return [
        None if any(value is None for value in row) else sum(value or 0.0 for value in row) for row in zip(*columns, strict=True)
    ]


def quantile(q: float, buckets: Sequence[tuple[float, float]]) -> float | None:
    """The q-quantile of a histogram, interpolated as Prometheus's `histogram_quantile()` does.

    Arguments:
        q: 0 to 1.
        buckets: upper bound and cumulative count, by bound, the last bound being infinity.

    Returns:
        None if the histogram is empty.
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
