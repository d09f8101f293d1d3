"""The `export` control writes CSV files and a report after the experiment, even if the experiment failed or was interrupted.

It also reads the metrics before the rollbacks, because a rollback may stop Prometheus.

Arguments:
    directory: the directory for the files; default: `chaosorca-results/<title>-<UTC>/`. No file is overwritten.
    containers: the containers to export; default: all that were monitored during the experiment.
    metrics: some of cpu, http, latency, io, mem, netr, nets, syscall; default: all.
    step: the shortest time between rows, with a unit; default: "1s".
    window: the time over which rates are smoothed, with a unit. Without it, each row covers one scrape interval.
    report: whether to write `report.html`, a page with all results; default: true.
"""

from __future__ import annotations

from typing import Any

from chaosorca.controls.common import as_names, check_arguments
from chaosorca.controls.results import check_directory, check_metrics
from chaosorca.controls.run import Task, run_of
from chaosorca.controls.work import before_rollbacks, configure_control, finish
from chaosorca.model.duration import parse_seconds
from chaosorca.model.values import as_bool

__all__ = [
    "after_experiment_control",
    "before_experiment_control",
    "before_rollback_control",
    "configure_control",
    "validate_control",
]


def validate_control(control: dict[str, Any]) -> None:
    """Check the arguments for `chaos validate`."""
    check_arguments(
        control,
        {
            "directory": check_directory,
            "containers": lambda value: as_names(value, "containers"),
            "metrics": check_metrics,
            "step": lambda value: parse_seconds(value, "step"),
            "window": lambda value: parse_seconds(value, "window"),
            "report": lambda value: as_bool(value, "report"),
        },
    )


def before_experiment_control(
    context: Any, configuration: Any = None, experiment: Any = None, secrets: Any = None, **arguments: Any
) -> None:
    """Begin the run, and record the time."""
    run_of(experiment, configuration, secrets)


def before_rollback_control(
    context: Any, configuration: Any = None, experiment: Any = None, secrets: Any = None, **arguments: Any
) -> None:
    """Read the metrics and faults that a rollback may remove."""
    before_rollbacks(run_of(experiment, configuration, secrets))


def after_experiment_control(
    context: Any, configuration: Any = None, experiment: Any = None, secrets: Any = None, state: Any = None, **arguments: Any
) -> None:
    """Read the remaining metrics and faults, and write all files."""
    finish(run_of(experiment, configuration, secrets), state, Task("export", arguments))
