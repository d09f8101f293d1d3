"""What was measured before, during and after the faults on a container."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import median

from chaosorca.metrics.series import Column
from chaosorca.metrics.tables import Table

PHASES = ("before", "during", "after")
Span = tuple[float, float]


def levelled(table: Table, name: str) -> Column:
    """A column as it is most likely: what a new series begins with is spread over the two intervals that it tells of.

    The scrape that finds a series gives it as 0 (see `agent.exporter`), so its first value would look like a peak, one row late.
    """
    column, times = table.columns[name], table.times
    found = times.index(table.new[name]) if table.new.get(name) in times else len(times)
    if found + 1 >= len(column) or column[found] is None or (first := column[found + 1]) is None:
        return column
    length = times[found + 1] - times[found]
    before = times[found] - times[found - 1] if found else length  # the row before the first is not in the table
    both = first * length / (before + length)
    return [*column[:found], both, both, *column[found + 2 :]]


def rows_of_phases(times: Sequence[float], faults: Sequence[Span], window: float = 0.0) -> dict[str, list[int]]:
    """Which rows tell of each phase alone: those across the edge of a fault tell of two, and of none here.

    Arguments:
        times: of the rows, each of which tells of the time since the one before, or since the one before that where a series is
            new, as those of a fault are; the first one's beginning is not known.
        faults: when faults began and ended, in seconds since 1970. Between two of them is no phase.
        window: the seconds over which rows are smoothed, if that is longer.
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
    """A column's mean in some rows, over time; None where nothing is known."""
    known = [(value, times[row] - times[row - 1]) for row in rows if (value := column[row]) is not None]
    seconds = sum(length for _, length in known)
    return sum(value * length for value, length in known) / seconds if seconds else None
