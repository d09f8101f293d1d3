"""The `verify` control marks an experiment as failed if a fault did not happen.

Without this control, a service would seem to withstand a fault that never happened.

Before the experiment, the control tries every `start_fault` of the method as a dry run. If a fault cannot work, the control
interrupts the experiment before anything starts. After the experiment, the control sets the journal's status to `failed` if a fault
was not attached to every process or hit too few calls. The reasons are in the journal under `"chaosorca"`.

Arguments:
    min_injected: the number of calls that each fault must have hit; default: 1. A placebo need not hit any.
"""

from __future__ import annotations

from typing import Any

from chaoslib import substitute
from chaoslib.exceptions import ActivityFailed, InterruptExecution
from logzero import logger

from chaosorca.actions.faults import start_fault
from chaosorca.controls.common import check_arguments, interruption
from chaosorca.controls.run import Task, run_of
from chaosorca.controls.verdict import check_min_injected, start_faults
from chaosorca.controls.work import before_rollbacks, configure_control, finish

__all__ = [
    "after_experiment_control",
    "after_method_control",
    "before_experiment_control",
    "before_rollback_control",
    "configure_control",
    "validate_control",
]


def validate_control(control: dict[str, Any]) -> None:
    """Check the arguments for `chaos validate`."""
    check_arguments(control, {"min_injected": check_min_injected})


def before_experiment_control(
    context: Any, min_injected: Any = 1, configuration: Any = None, experiment: Any = None, secrets: Any = None, **kwargs: Any
) -> None:
    """Try every fault as a dry run. A fault that cannot work interrupts the experiment."""
    if run_of(experiment, configuration, secrets).is_dry:
        return
    try:
        check_min_injected(min_injected)
        for activity in start_faults(context.get("method", [])):
            arguments = substitute(activity["provider"].get("arguments") or {}, configuration, secrets)
            start_fault(**{**arguments, "dry_run": True, "configuration": configuration})
    except (ActivityFailed, ValueError, TypeError) as error:
        logger.error("verify: %s", error)
        raise InterruptExecution(f"a fault of this experiment cannot work: {error}") from error
    except InterruptExecution:
        raise
    except Exception as error:  # an experiment must not continue unverified
        raise interruption("verify", error) from error


def after_method_control(
    context: Any, configuration: Any = None, experiment: Any = None, secrets: Any = None, **arguments: Any
) -> None:
    """Ask the agent how often the faults have fired."""
    run = run_of(experiment, configuration, secrets)
    if not run.is_dry:
        run.ask_agent()


def before_rollback_control(
    context: Any, configuration: Any = None, experiment: Any = None, secrets: Any = None, **arguments: Any
) -> None:
    """Ask the agent again how often the faults have fired, since a rollback may remove the agent."""
    before_rollbacks(run_of(experiment, configuration, secrets))


def after_experiment_control(
    context: Any, configuration: Any = None, experiment: Any = None, secrets: Any = None, state: Any = None, **arguments: Any
) -> None:
    """Mark the journal as failed if a fault did not happen."""
    finish(run_of(experiment, configuration, secrets), state, Task("verify", arguments))
