"""The `export` control: CSV files and a report of what was measured, after the experiment, however it ended.

It also collects before the rollbacks run, because a rollback may stop Prometheus.

Arguments:
    directory: where the files go; default: `chaosorca-results/<title>-<UTC>/`. Nothing is ever overwritten.
    containers: the containers to export; default: all that were monitored meanwhile.
    metrics: some of cpu, http, latency, io, mem, netr, nets, syscall; default: all.
    step: the least time between rows, with a unit; default: "1s".
    window: the time over which rates are smoothed, with a unit; default: none, each row tells of one scrape interval.
    report: whether to write `report.html`, a page that shows it all; default: true.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from logzero import logger

from chaosorca.controls.cleanup import end_faults
from chaosorca.controls.common import arguments_of, as_names, check_arguments, is_dry, logging_errors
from chaosorca.controls.verify import judge
from chaosorca.engine.agent import find_agent
from chaosorca.engine.client import connect
from chaosorca.exceptions import InvalidArgument, OrcaError
from chaosorca.metrics import events, tables
from chaosorca.model.duration import parse_seconds
from chaosorca.model.record import FaultRecord
from chaosorca.model.values import as_bool
from chaosorca.report.page import report
from chaosorca.sources import open_prometheus, series_name

__all__ = [
    "after_experiment_control",
    "before_experiment_control",
    "before_rollback_control",
    "validate_control",
]


@dataclass
class _Collected:
    began: float = 0.0
    tables: dict[tuple[str, str], tables.Table] = field(default_factory=dict)
    faults: dict[tuple[str, str], FaultRecord] = field(default_factory=dict)  # by id and container


_collected = _Collected()


def validate_control(control: dict[str, Any]) -> None:
    """Check the arguments for `chaos validate`."""
    check_arguments(
        control,
        {
            "directory": _check_directory,
            "containers": lambda value: as_names(value, "containers"),
            "metrics": _check_metrics,
            "step": lambda value: parse_seconds(value, "step"),
            "window": lambda value: parse_seconds(value, "window"),
            "report": lambda value: as_bool(value, "report"),
        },
    )


def before_experiment_control(context: Any, **kwargs: Any) -> None:
    """Remember when it began."""
    global _collected
    _collected = _Collected(began=time.time())


def before_rollback_control(context: Any, configuration: Any = None, experiment: Any = None, **arguments: Any) -> None:
    """Collect what a rollback may take away."""
    if not is_dry(experiment):
        doing = "control export (before the rollbacks)"
        logging_errors(doing, lambda: _ask_agent(configuration))
        logging_errors(doing, lambda: _collect(configuration, arguments))


def after_experiment_control(
    context: Any, configuration: Any = None, experiment: Any = None, state: Any = None, **arguments: Any
) -> None:
    """Collect what is still there, and write everything."""
    if is_dry(experiment):
        return

    # Controls listed behind this one have their say first, so that the files know of it; the agent may be gone after them.
    logging_errors("control export", lambda: _ask_agent(configuration))
    ended = end_faults(configuration) if arguments_of("cleanup", experiment, configuration) is not None else []
    _remember(ended)
    if (of_verify := arguments_of("verify", experiment, configuration)) is not None and isinstance(state, dict):
        logging_errors("control verify", lambda: judge(state, configuration, **of_verify, ended=ended))

    def write() -> None:
        _remember_stopped_faults(state or {})
        try:
            _collect(configuration, arguments)
        except OrcaError as error:
            if not _collected.tables:
                logger.error("control export: no metric could be read: %s", error)
        happened = events.fault_events(_collected.faults.values()) + events.journal_events(state or {})
        title = str(context.get("title", "experiment"))
        directory = write_results(_directory(arguments.get("directory"), title), _collected.tables, happened)
        logger.info("export: wrote %d CSV files to %s", len(_collected.tables) + 1, directory)
        if as_bool(arguments.get("report", True), "report"):
            page = directory / "report.html"
            faults = sorted(_collected.faults.values(), key=lambda fault: fault.begins)
            text = report(state or {}, title, _collected.tables, faults, _window(arguments))
            page.write_text(text, encoding="utf-8", errors="backslashreplace")
            logger.info("export: wrote the report, %s", page)

    logging_errors("control export", write)


def write_results(directory: Path, collected: dict[tuple[str, str], tables.Table], happened: list[events.Event]) -> Path:
    """Write `<container>/<metric>.csv` for each table, and `events.csv`, into a directory that is new or empty."""
    directory.mkdir(parents=True, exist_ok=True)
    for (container, metric), table in collected.items():
        path = directory / container / f"{metric}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(tables.to_csv(table))
    (directory / "events.csv").write_text(events.to_csv(happened))
    return directory


def _collect(configuration: Any, arguments: dict[str, Any]) -> None:
    metrics = _check_metrics(arguments.get("metrics")) or list(tables.METRICS)
    step = parse_seconds(arguments.get("step") or "1s", "step")
    window = _window(arguments)
    prometheus = open_prometheus(configuration)
    end = time.time()
    chosen = as_names(arguments.get("containers"), "containers")
    if chosen is None:
        names = tables.monitored_containers(prometheus, _collected.began, end)
    else:
        names = [series_name(name, configuration) for name in chosen]
    for name in names:
        for metric in metrics:
            table = tables.read_table(prometheus, name, metric, _collected.began, end, step, window)
            before = _collected.tables.get((name, metric))
            if before is None or len(table.times) >= len(before.times):  # a new Prometheus would know less
                _collected.tables[name, metric] = table


def _ask_agent(configuration: Any) -> None:
    """Remember the faults of this experiment that the agent knows of."""
    try:
        agent = find_agent(connect(configuration))
        _remember([fault for fault in agent.faults() if fault.begins >= _collected.began] if agent else [])
    except OrcaError as error:
        logger.warning("export: the agent could not be asked about faults: %s", error)


def _remember_stopped_faults(journal: dict[str, Any]) -> None:
    """What `stop_fault` returned: the agent that could tell of these faults may be gone."""
    for run in [*(journal.get("run") or []), *(journal.get("rollbacks") or [])]:
        output = run.get("output")
        if (run.get("activity") or {}).get("provider", {}).get("module") == "chaosorca.actions.faults" and isinstance(output, dict):
            _remember([FaultRecord.from_json(one) for one in output.get("stopped", [])])


def _remember(faults: list[FaultRecord]) -> None:
    _collected.faults.update({(fault.id, fault.container): fault for fault in faults})


def _window(arguments: dict[str, Any]) -> float:
    return parse_seconds(arguments["window"], "window") if arguments.get("window") else 0.0


def _directory(given: Any, title: str) -> Path:
    if given:
        wanted = _check_directory(given)
    else:
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:80] or "experiment"
        wanted = Path("chaosorca-results") / f"{slug}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    directory, number = wanted, 1
    while directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        number += 1
        directory = wanted.with_name(f"{wanted.name}-{number}")
    return directory


def _check_directory(value: Any) -> Path:
    if not isinstance(value, str) or not value.strip():
        raise InvalidArgument(f"directory {value!r} is no path")
    return Path(value)


def _check_metrics(value: Any) -> list[str] | None:
    return [tables.check_metric(name) for name in names] if (names := as_names(value, "metrics")) else None
