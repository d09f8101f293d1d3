"""What was measured before, during and after the faults on a container."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import median

from chaosorca.metrics.series import Column
from chaosorca.metrics.tables import Table

PHASES = ("before", "during", "after")
Span = tuple[float, float]


def levelled(column: Column) -> Column:
    """A column of counts whose first one is spread over the two intervals that it tells of.

    A series that is new has one scrape that gives it as 0 (`metrics.series.growth`), so its first value would look like a peak.
    """
    first = next((index for index, value in enumerate(column) if value), 0)
    before = column[:first]
    if len(before) < 2 or before[-1] is None:
        return column
    half = (column[first] or 0.0) / 2
    return [*before[:-1], half, half, *column[first + 1 :]]


def rows_of_phases(times: Sequence[float], faults: Sequence[Span]) -> dict[str, list[int]]:
    """Which rows tell of each phase alone: those across the edge of a fault tell of two, and of none here.

    Arguments:
        times: of the rows, each of which tells of the time since the one before, or since the one before that where a series is
            new, as those of a fault are; the first one's beginning is not known.
        faults: when faults began and ended, in seconds since 1970. Between two of them is no phase.
    """
    if len(times) < 2 or not faults:
        return {name: [] for name in PHASES}
    every = median(later - earlier for earlier, later in itertools.pairwise(times))
    first, last = min(begin for begin, _ in faults), max(end for _, end in faults)
    rows = range(1, len(times))
    return {
        "before": [row for row in rows if times[row] <= first],
        "during": [row for row in rows if any(begin + 2.5 * every < times[row] <= end for begin, end in faults)],
        "after": [row for row in rows if times[row] - 1.5 * every > last],
    }


def means(table: Table, column: Column, faults: Sequence[Span]) -> dict[str, float | None]:
    """A column's mean in each phase, over time; None where nothing is known."""
    found: dict[str, float | None] = {}
    for name, rows in rows_of_phases(table.times, faults).items():
        known = [(value, table.times[row] - table.times[row - 1]) for row in rows if (value := column[row]) is not None]
        seconds = sum(length for _, length in known)
        found[name] = sum(value * length for value, length in known) / seconds if seconds else None
    return found
