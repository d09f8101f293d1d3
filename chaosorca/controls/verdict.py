"""The verdict on the faults of an experiment. It says whether each fault happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from logzero import logger

from chaosorca.controls.run import FaultKey, Run
from chaosorca.model.counted import counted
from chaosorca.model.record import FaultRecord
from chaosorca.model.values import as_bool, as_int

_MODULE, _START = "chaosorca.actions.faults", "start_fault"


def judge(run: Run, journal: dict[str, Any], min_injected: Any = 1) -> None:
    """Mark a journal as failed if a fault did not happen. A journal that already has reasons for a failure is not changed.

    Arguments:
        run: the run of the experiment, with the records of its faults.
        journal: the run's journal.
        min_injected: the number of calls that each fault must have hit.

    Raises:
        InvalidArgument: `min_injected` is not a whole number, or it is out of bounds.
    """
    if "chaosorca" in journal:
        return
    reasons = failures(journal, run.faults(), check_min_injected(min_injected))
    for reason in reasons:
        logger.error("verify: %s", reason)
    if reasons:
        fail(journal, *reasons)


def fail(journal: dict[str, Any], *reasons: str) -> None:
    """Mark a journal as failed, with the reasons."""
    journal["status"] = "failed"
    journal.setdefault("chaosorca", {}).setdefault("failed", []).extend(reasons)


def failures(journal: Mapping[str, Any], faults: Mapping[FaultKey, FaultRecord], least: int) -> list[str]:
    """Return the failures of an experiment's faults.

    Arguments:
        journal: the journal of the experiment.
        faults: the latest record of each known fault.
        least: the number of calls that each fault must have hit. A placebo need not hit any.

    Returns:
        a sentence for each fault that did not start, was not attached to every process, or hit fewer calls than `least`.
    """
    reasons = []
    for run in [run for run in journal.get("run") or [] if isinstance(run, dict)]:
        if not start_faults([run.get("activity") or {}]):
            continue
        name, output = run["activity"].get("name", _START), run.get("output")
        if run.get("status") != "succeeded" or not isinstance(output, dict):
            reasons.append(f"fault {name!r} was not started")
            continue
        arguments = run["activity"]["provider"].get("arguments") or {}
        needed = 0 if as_bool(arguments.get("placebo", False), "placebo") else least
        for target in output["containers"]:
            missing = len(target["not_attached"])
            if missing:
                reasons.append(
                    f"fault {name!r} was not attached to {counted(missing, 'process', 'processes')} of container {target['name']!r}"
                )
            fault = faults.get((output["fault"], target["name"]))
            if fault is None and needed:
                reasons.append(f"it is not known how often fault {name!r} fired on container {target['name']!r}: the agent is gone")
            elif fault is not None and fault.fired < needed:
                why = "".join(f"; {warning}" for warning in fault.warnings)
                expected = f"(at least {counted(needed, 'call')} expected)"
                reasons.append(f"fault {name!r} {fault.state} on container {target['name']!r} {expected}{why}")
    return reasons


def stopped_faults(journal: Mapping[str, Any]) -> list[FaultRecord]:
    """Return the records in the outputs of an experiment's stop actions.

    Raises:
        KeyError, TypeError, ValueError: an output is not a list of records.
    """
    found = []
    for run in [*(journal.get("run") or []), *(journal.get("rollbacks") or [])]:
        output, provider = run.get("output"), (run.get("activity") or {}).get("provider") or {}
        if provider.get("module") == _MODULE and isinstance(output, dict):
            found += [FaultRecord.from_json(one) for one in output.get("stopped", [])]
    return found


def start_faults(activities: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the activities that start a fault."""
    providers = [(activity, activity.get("provider") or {}) for activity in activities]
    return [activity for activity, provider in providers if (provider.get("module"), provider.get("func")) == (_MODULE, _START)]


def check_min_injected(value: Any) -> int:
    """Return `min_injected` as a number.

    Raises:
        InvalidArgument: the value is not a whole number, or it is out of bounds.
    """
    return as_int(value, "min_injected", 0, 2**31)
