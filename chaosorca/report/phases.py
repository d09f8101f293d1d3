"""Measurements before, during and after the faults on a container."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import median

from chaosorca.metrics.series import Column
from chaosorca.metrics.tables import Table

PHASES = ("before", "during", "after")
Span = tuple[float, float]


def spread_first_increase(table: Table, name: str) -> Column:
    """Return a column in which the first increase of a new series is spread over two intervals.

    A new series is exported as 0 for one scrape (see `agent.export.first_seen`). The next row therefore has the increase of two
    intervals, which would look like a peak.
    """
    column, times = table.columns[name], table.times
    found = times.index(table.new[name]) if table.new.get(name) in times else len(times)
    if found + 1 >= len(column) or column[found] is None or (first := column[found + 1]) is None:
        return column
    length = times[found + 1] - times[found]
    before = times[found] - times[found - 1] if found else length  # the first row's interval has an unknown length
    rate = first * length / (before + length)
    return [*column[:found], rate, rate, *column[found + 2 :]]


def rows_of_phases(times: Sequence[float], faults: Sequence[Span], window: float = 0.0) -> dict[str, list[int]]:
    """Return the rows of each phase. A row whose interval contains the beginning or end of a fault belongs to no phase.

    Arguments:
        times: the times of the rows. A row covers the interval since the previous row, or two intervals if a series is new. (A
            fault's errors are usually new series.) The first row is left out, because the beginning of its interval is unknown.
        faults: when faults began and ended, in seconds since 1970. The time between two faults belongs to no phase.
        window: the seconds over which rows are smoothed. Each row then covers at least this time.
    """
    if len(times) < 2 or not faults:
        return {name: [] for name in PHASES}
    every = median(later - earlier for earlier, later in itertools.pairwise(times))
    one, two = max(1.5 * every, window + 0.5 * every), max(2.5 * every, window + 1.5 * every)
    first, last = min(begin for begin, _ in faults), max(end for _, end in faults)
    rows = range(1, len(times))
    return {
        "before": [row for row in rows if times[row] <= first],
        "during": [row for row in rows if any(begin + two < times[row] <= end for begin, end in faults)],
        "after": [row for row in rows if times[row] - one > last],
    }


def mean(times: Sequence[float], column: Column, rows: Sequence[int]) -> float | None:
    """Return the mean of a column in some rows, weighted by the rows' intervals. Return None if all values are unknown."""
    present = [(value, times[row] - times[row - 1]) for row in rows if (value := column[row]) is not None]
    seconds = sum(length for _, length in present)
    return sum(value * length for value, length in present) / seconds if seconds else None
