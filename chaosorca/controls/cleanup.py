"""The `cleanup` control ends the faults of an experiment, even if the experiment failed or was interrupted.

Arguments: none.
"""

from __future__ import annotations

from typing import Any

from chaosorca.controls.common import check_arguments
from chaosorca.controls.run import Task, current_run, run_of
from chaosorca.controls.work import configure_control, end_faults, finish

__all__ = ["after_experiment_control", "before_experiment_control", "cleanup_control", "configure_control", "validate_control"]


def validate_control(control: dict[str, Any]) -> None:
    """Check the arguments for `chaos validate`."""
    check_arguments(control, {})


def before_experiment_control(
    context: Any, configuration: Any = None, experiment: Any = None, secrets: Any = None, **arguments: Any
) -> None:
    """Begin the run, so that `cleanup_control` finds it."""
    run_of(experiment, configuration, secrets)


def after_experiment_control(
    context: Any, configuration: Any = None, experiment: Any = None, secrets: Any = None, state: Any = None, **arguments: Any
) -> None:
    """End the faults that this process has started."""
    finish(run_of(experiment, configuration, secrets), state, Task("cleanup", arguments))


def cleanup_control() -> None:
    """If an interruption has prevented `after_experiment_control`, end the faults that this process has started."""
    run = current_run()
    if run is not None:
        end_faults(run)
