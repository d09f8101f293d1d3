"""The exported tables. Each metric of a container has a table with one row for each scrape and one column for each series."""

from __future__ import annotations

import csv
import io
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chaosorca.exceptions import InvalidArgument
from chaosorca.metrics.measure import STALE_AFTER, scrape_interval
from chaosorca.metrics.promql import selector
from chaosorca.metrics.query import Prometheus, Samples, Series
from chaosorca.metrics.series import Column, add, increases, per_second, quantile, thin
from chaosorca.model.nearest import nearest
from chaosorca.model.times import iso

QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Table:
    """Columns of values that share the same times. A value is None if the container was not monitored at that time.

    Attributes:
        times: the times of the rows, in seconds since 1970.
        columns: the values by column.
        new: the columns whose counters first appeared within these times, each with the time of its first row. The first value of
            such a column is 0, and the second value covers the intervals of both rows. Columns that a new agent has reset are not
            included.
    """

    times: list[float]
    columns: dict[str, Column]
    new: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Metric:
    """How the series of a metric become columns."""

    monitor: str
    kind: str  # counter, gauge or histogram
    series: dict[str, str]  # metric name -> column name; if the column name is empty, `column` returns the names
    label: str = "name"
    where: tuple[tuple[str, str], ...] = ()
    column: Callable[[dict[str, str]], list[str]] = lambda labels: []


def _http_column(labels: dict[str, str]) -> list[str]:
    return [labels["code"] if labels["role"] == "server" else f"client:{labels['code']}"]


def _syscall_columns(labels: dict[str, str]) -> list[str]:
    """Return the column for all calls of a system call. For failed calls, return the column for their errno as well."""
    error = labels.get("error", "")
    return [labels["syscall"]] + ([f"{labels['syscall']}:{error}"] if error else [])


METRICS: dict[str, _Metric] = {
    "cpu": _Metric("resources", "counter", {"container_cpu_usage_seconds_total": "cores"}),
    "http": _Metric("http", "counter", {"chaosorca_http_requests_total": ""}, "container", column=_http_column),
    "latency": _Metric(
        "http", "histogram", {"chaosorca_http_request_duration_seconds_bucket": ""}, "container", (("role", "server"),)
    ),
    "io": _Metric("resources", "counter", {"container_fs_reads_bytes_total": "read", "container_fs_writes_bytes_total": "write"}),
    "mem": _Metric("resources", "gauge", {"container_memory_usage_bytes": "bytes"}),
    "netr": _Metric("resources", "counter", {"container_network_receive_bytes_total": "bytes"}),
    "nets": _Metric("resources", "counter", {"container_network_transmit_bytes_total": "bytes"}),
    "syscall": _Metric("syscalls", "counter", {"chaosorca_syscalls_total": ""}, "container", column=_syscall_columns),
}
"""The metrics by name. The same names are used in files and on the command line."""


def check_metric(name: str) -> str:
    """Check that a metric exists, and return its name.

    Raises:
        InvalidArgument: there is no such metric.
    """
    if name not in METRICS:
        raise InvalidArgument(f"metric {name!r} does not exist{nearest(name, METRICS)}: there are {', '.join(METRICS)}")
    return name


def monitored_containers(prometheus: Prometheus, start: float, end: float) -> list[str]:
    """Return the names of the containers that were monitored at some time between `start` and `end`."""
    found = prometheus.samples(selector("chaosorca_monitored"), end - start, end)
    return sorted({one.labels["container"] for one in found})


def read_table(
    prometheus: Prometheus, container: str, name: str, start: float, end: float, step: float = 0.0, window: float = 0.0
) -> Table:
    """Read a metric of a container.

    Counters become rates, so each value is the increase between two scrapes divided by the time between them. Gauges are unchanged.
    The latency becomes quantiles in seconds. A quantile is computed from the requests that were answered between two scrapes.

    Arguments:
        prometheus: the server to query.
        container: the container's name.
        name: one of `METRICS`.
        start, end: the beginning and end of the table, in seconds since 1970.
        step: the shortest time between two rows, in seconds; 0 for a row at every scrape.
        window: the seconds over which values are smoothed; 0 for no smoothing.
    """
    metric = METRICS[check_metric(name)]
    span = end - start
    monitored = prometheus.samples(selector("chaosorca_monitored", container=container, monitor=metric.monitor), span, end)
    samples: Samples = sorted(sample for one in monitored for sample in one.samples)
    every = scrape_interval(samples) or 1.0
    axis = thin([at for at, _ in samples], step)
    gap = STALE_AFTER * max(every, step)
    found = [
        (series, column)
        for series_name, column in metric.series.items()
        for series in prometheus.samples(selector(series_name, **{metric.label: container, **dict(metric.where)}), span, end)
    ]
    new: dict[str, float] = {}
    if metric.kind == "gauge":
        columns = {column: _at(axis, series.samples) for series, column in found}
    elif metric.kind == "histogram":
        columns = _quantiles(axis, [series for series, _ in found], gap, window)
    else:
        columns = {}
        for column, grown in _counters(axis, found, metric, gap).items():
            columns[column] = per_second(axis, grown, window)
        if not window:
            new = _new([at for at, _ in samples], axis, found, metric)
    for column in metric.series.values():
        if column:
            columns.setdefault(column, [None] * len(axis))
    return _trim(Table(axis, dict(sorted(columns.items())), new))


def to_csv(table: Table) -> str:
    """Return a table as CSV. The first column is `timestamp` in ISO 8601 (UTC), in ascending order. None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["timestamp", *table.columns])
    for index, at in enumerate(table.times):
        cells = (column[index] for column in table.columns.values())
        writer.writerow([iso(at), *map(_cell, cells)])
    return text.getvalue()


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if value == int(value) else format(value, ".10g")


def _counters(axis: Sequence[float], found: Sequence[tuple[Series, str]], metric: _Metric, gap: float) -> dict[str, Column]:
    parts: dict[str, list[Column]] = defaultdict(list)
    for series, column in found:
        # Only chaosorca's own counters begin at 0. Resource counters include the usage before monitoring, which is not an increase.
        grown = increases(axis, series.samples, gap, begins_at_zero=not column)
        for name in [column] if column else metric.column(series.labels):
            parts[name].append(grown)
    return {name: add(columns) for name, columns in parts.items()}


def _new(scrapes: Sequence[float], axis: Sequence[float], found: Sequence[tuple[Series, str]], metric: _Metric) -> dict[str, float]:
    """Return the time at which each new column of chaosorca's own counters first appeared.

    A column is left out if `step` dropped the scrape at that time or the scrape before it.
    """
    first: dict[str, float] = {}
    for series, column in found:
        at, value = series.samples[0]
        for name in [] if column else metric.column(series.labels):
            first[name] = min(first.get(name, at), at if value == 0 else scrapes[0] if scrapes else at)
    rows = set(itertools.pairwise(axis))
    complete = {round(at, 3): at for before, at in itertools.pairwise(scrapes) if (before, at) in rows}
    return {name: complete[round(at, 3)] for name, at in first.items() if round(at, 3) in complete}


def _quantiles(axis: Sequence[float], found: Sequence[Series], gap: float, window: float) -> dict[str, Column]:
    parts: dict[float, list[Column]] = defaultdict(list)
    for series in found:
        parts[float(series.labels["le"])].append(per_second(axis, increases(axis, series.samples, gap), window))
    bounds = sorted(parts)
    rows = list(zip(*(add(parts[bound]) for bound in bounds), strict=True)) if bounds else [()] * len(axis)
    return {
        f"{q:g}": [
            None
            if not row or any(count is None for count in row)
            else quantile(q, [(b, c or 0.0) for b, c in zip(bounds, row, strict=True)])
            for row in rows
        ]
        for q in QUANTILES
    }


def _at(axis: Sequence[float], samples: Samples) -> Column:
    values = {round(at, 3): value for at, value in samples}
    return [values.get(round(at, 3)) for at in axis]


def _trim(table: Table) -> Table:
    """Drop the first row of a table of counters, because the increase before that row is unknown."""
    if table.times and all(column[0] is None for column in table.columns.values()) and table.columns:
        return Table(table.times[1:], {name: column[1:] for name, column in table.columns.items()}, table.new)
    return table
