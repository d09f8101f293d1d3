"""The results of an experiment: its metrics, its faults, and the files that contain them."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from logzero import logger

from chaosorca.controls.common import as_names
from chaosorca.controls.run import Run
from chaosorca.exceptions import InvalidArgument, OrcaError
from chaosorca.metrics import events, tables
from chaosorca.model.counted import counted
from chaosorca.model.duration import parse_seconds
from chaosorca.model.values import as_bool
from chaosorca.report.page import report
from chaosorca.sources import open_prometheus, series_name


def collect(run: Run, arguments: Mapping[str, Any]) -> None:
    """Read the metrics of the run until now. A new table replaces an earlier one unless the new table has fewer rows.

    Arguments:
        run: the run, which keeps the tables.
        arguments: the arguments of the `export` control.

    Raises:
        OrcaError: an argument is invalid, or Prometheus does not answer.
    """
    metrics = check_metrics(arguments.get("metrics")) or list(tables.METRICS)
    step = parse_seconds(arguments.get("step") or "1s", "step")
    window = _window(arguments)
    prometheus = open_prometheus(run.configuration)
    end = time.time()
    chosen = as_names(arguments.get("containers"), "containers")
    if chosen is None:
        names = tables.monitored_containers(prometheus, run.began, end)
    else:
        names = [series_name(name, run.configuration) for name in chosen]
    for name in names:
        for metric in metrics:
            table = tables.read_table(prometheus, name, metric, run.began, end, step, window)
            before = run.tables.get((name, metric))
            if before is None or len(table.times) >= len(before.times):  # a Prometheus that was started meanwhile has fewer rows
                run.tables[name, metric] = table


def export(run: Run, journal: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Read the remaining metrics, and write all files.

    Arguments:
        run: the run, with the tables that were read before.
        journal: the run's journal.
        arguments: the arguments of the `export` control.
    """
    try:
        collect(run, arguments)
    except OrcaError as error:
        if not run.tables:
            logger.error("control export: no metric could be read: %s", error)
    faults = run.faults_since_beginning()
    title = str(run.experiment.get("title", "experiment"))
    happened = events.fault_events(faults) + events.journal_events(journal)
    directory = write_results(new_directory(arguments.get("directory"), title), run.tables, happened)
    logger.info("export: wrote %s to %s", counted(len(run.tables) + 1, "CSV file"), directory)
    if as_bool(arguments.get("report", True), "report"):
        page = directory / "report.html"
        text = report(journal, title, run.tables, faults, _window(arguments))
        page.write_text(text, encoding="utf-8", errors="backslashreplace")
        logger.info("export: wrote the report, %s", page)


def write_results(directory: Path, collected: dict[tuple[str, str], tables.Table], happened: list[events.Event]) -> Path:
    """Write `<container>/<metric>.csv` for each table, and `events.csv`. The directory must be new or empty."""
    directory.mkdir(parents=True, exist_ok=True)
    for (container, metric), table in collected.items():
        path = directory / container / f"{metric}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(tables.to_csv(table), encoding="utf-8", errors="backslashreplace")
    (directory / "events.csv").write_text(events.to_csv(happened), encoding="utf-8", errors="backslashreplace")
    return directory


def new_directory(given: Any, title: str) -> Path:
    """Return a directory that is new or empty. Without a given path, its name contains the experiment's title and the time.

    Raises:
        InvalidArgument: the given value is not a path.
    """
    if given:
        wanted = check_directory(given)
    else:
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:80] or "experiment"
        wanted = Path("chaosorca-results") / f"{slug}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    directory, number = wanted, 1
    while directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        number += 1
        directory = wanted.with_name(f"{wanted.name}-{number}")
    return directory


def check_directory(value: Any) -> Path:
    """Return the argument `directory` as a path.

    Raises:
        InvalidArgument: the value is not a path.
    """
    if not isinstance(value, str) or not value.strip():
        raise InvalidArgument(f"directory {value!r} is not a path")
    return Path(value)


def check_metrics(value: Any) -> list[str] | None:
    """Return the names in the argument `metrics`; None if there are no names.

    Raises:
        InvalidArgument: a metric does not exist.
        InvalidActivity: the value is not a list of names.
    """
    return [tables.check_metric(name) for name in names] if (names := as_names(value, "metrics")) else None


def _window(arguments: Mapping[str, Any]) -> float:
    return parse_seconds(arguments["window"], "window") if arguments.get("window") else 0.0
