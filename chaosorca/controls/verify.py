"""The `verify` control: a fault that did not happen makes the experiment fail, instead of passing for a service that withstood it.

Before the experiment every `start_fault` of its method is tried as a dry run, and one that cannot work interrupts it before
anything starts. After it, the journal's status is `failed`, with the reasons under `"chaosorca"`, when a fault was not attached
everywhere or fired less than it should have.

Arguments:
    min_injected: how many calls each fault has to have tampered with; a placebo none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chaoslib import substitute
from chaoslib.exceptions import ActivityFailed, InterruptExecution
from logzero import logger

from chaosorca.actions.faults import start_fault
from chaosorca.controls.common import check_arguments, is_dry, logging_errors
from chaosorca.engine.agent import find_agent
from chaosorca.engine.client import connect
from chaosorca.model.record import FaultRecord
from chaosorca.model.values import as_bool, as_int

__all__ = [
    "after_experiment_control",
    "after_method_control",
    "before_experiment_control",
    "before_rollback_control",
    "validate_control",
]

_MODULE, _FUNCTION = "chaosorca.actions.faults", "start_fault"
_injected: dict[str, dict[str, int]] = {}
_warnings: dict[tuple[str, str], list[str]] = {}


def validate_control(control: dict[str, Any]) -> None:
    """Check the arguments for `chaos validate`."""
    check_arguments(control, {"min_injected": _check_least})


def before_experiment_control(
    context: Any, min_injected: Any = 1, configuration: Any = None, experiment: Any = None, **kwargs: Any
) -> None:
    """Try every fault as a dry run; one that cannot work interrupts the experiment."""
    _injected.clear()
    _warnings.clear()
    if is_dry(experiment):
        return
    try:
        _check_least(min_injected)
        for activity in _start_faults(context.get("method", [])):
            arguments = substitute(activity["provider"].get("arguments") or {}, configuration, None)
            start_fault(**{**arguments, "dry_run": True, "configuration": configuration})
    except (ActivityFailed, ValueError, TypeError) as error:
        logger.error("verify: %s", error)
        raise InterruptExecution(f"a fault of this experiment cannot work: {error}") from error


def after_method_control(context: Any, configuration: Any = None, experiment: Any = None, **kwargs: Any) -> None:
    """Ask how often faults have fired, while somebody knows."""
    if not is_dry(experiment):
        logging_errors("control verify", lambda: _ask(configuration))


before_rollback_control = after_method_control


def after_experiment_control(
    context: Any, min_injected: Any = 1, configuration: Any = None, experiment: Any = None, state: Any = None, **kwargs: Any
) -> None:
    """Mark the journal as failed where a fault was not what it was meant to be."""
    if not is_dry(experiment) and isinstance(state, dict):
        judge(state, configuration, min_injected)


def judge(journal: dict[str, Any], configuration: Any, min_injected: Any = 1, ended: Iterable[FaultRecord] = ()) -> None:
    """Mark a journal as failed where a fault was not what it was meant to be; one that is marked already stays as it is.

    Arguments:
        journal: the experiment's journal.
        configuration: of the experiment.
        min_injected: as the control has it.
        ended: faults that somebody has just ended, as the agent told of them; it may be gone with them.
    """
    if "chaosorca" in journal:
        return
    logging_errors("control verify", lambda: _ask(configuration))
    _learn(ended)
    reasons = failures(journal, _injected, _check_least(min_injected), _warnings)
    for reason in reasons:
        logger.error("verify: %s", reason)
    if reasons:
        journal["status"] = "failed"
        journal["chaosorca"] = {"failed": reasons}


def failures(
    journal: Mapping[str, Any],
    injected: Mapping[str, Mapping[str, int]],
    least: int,
    warnings: Mapping[tuple[str, str], list[str]] | None = None,
) -> list[str]:
    """Tell what was wrong with the faults of an experiment.

    Arguments:
        journal: the experiment's journal.
        injected: for each fault's id, the calls that it has tampered with by container, as the agent told it.
        least: how many each has to have tampered with.
        warnings: what the agent had to say of each fault, by its id and container.

    Returns:
        a sentence for each fault that could not be started, was not attached everywhere, or fired less.
    """
    runs = [run for run in journal.get("run") or [] if isinstance(run, dict)]
    counts: dict[str, dict[str, int]] = {fault: dict(by_container) for fault, by_container in injected.items()}
    for run in [*runs, *(journal.get("rollbacks") or [])]:
        output, provider = run.get("output"), (run.get("activity") or {}).get("provider") or {}
        if provider.get("module") == _MODULE and isinstance(output, dict):
            for one in [FaultRecord.from_json(stopped) for stopped in output.get("stopped", [])]:
                counts.setdefault(one.id, {})[one.container] = one.fired
    reasons = []
    for run in runs:
        if not list(_start_faults([run.get("activity") or {}])):
            continue
        name, output = run["activity"].get("name", _FUNCTION), run.get("output")
        if run.get("status") != "succeeded" or not isinstance(output, dict):
            reasons.append(f"fault {name!r} was not started")
            continue
        arguments = run["activity"]["provider"].get("arguments") or {}
        needed = 0 if as_bool(arguments.get("placebo", False), "placebo") else least
        for target in output["containers"]:
            missing = len(target["not_attached"])
            if missing:
                reasons.append(f"fault {name!r} was not attached to {missing} processes of container {target['name']!r}")
            fired = counts.get(output["fault"], {}).get(target["name"])
            if fired is None and needed:
                reasons.append(f"how often fault {name!r} fired on container {target['name']!r} is not known: the agent is gone")
            elif fired is not None and fired < needed:
                why = "".join(f"; {warning}" for warning in (warnings or {}).get((output["fault"], target["name"]), []))
                reasons.append(
                    f"fault {name!r} fired {fired} times on container {target['name']!r}, and not {needed} as it has to{why}"
                )
    return reasons


def _start_faults(activities: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    providers = [(activity, activity.get("provider") or {}) for activity in activities]
    return [activity for activity, provider in providers if (provider.get("module"), provider.get("func")) == (_MODULE, _FUNCTION)]


def _ask(configuration: Any) -> None:
    agent = find_agent(connect(configuration))
    _learn(agent.faults() if agent else [])


def _learn(faults: Iterable[FaultRecord]) -> None:
    for fault in faults:
        _injected.setdefault(fault.id, {})[fault.container] = fault.fired
        _warnings[fault.id, fault.container] = list(fault.warnings)


def _check_least(value: Any) -> int:
    return as_int(value, "min_injected", 0, 2**31)
