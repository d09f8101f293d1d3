"""Helpers of the controls: finding the containers of an experiment, checking arguments, and logging errors.

Chaos Toolkit shows the errors of controls only in its debug log, so our controls log their errors themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from chaoslib import substitute
from chaoslib.exceptions import ActivityFailed, InterruptExecution, InvalidActivity
from logzero import logger

from chaosorca.exceptions import OrcaError
from chaosorca.model.nearest import nearest


def is_dry(experiment: Mapping[str, Any] | None) -> bool:
    """Return whether Chaos Toolkit skips the actions of an experiment. It still calls the controls.

    With `--dry=pause` and `--dry=probes`, Chaos Toolkit runs the actions.
    """
    dry = (experiment or {}).get("dry")
    return bool(dry) and getattr(dry, "value", dry) not in ("pause", "probes")


def named_containers(
    experiment: Mapping[str, Any], configuration: Mapping[str, Any] | None, secrets: Mapping[str, Any] | None = None
) -> list[str]:
    """Return the containers that the experiment's activities name, in order. Only activities of this extension count."""
    hypothesis = experiment.get("steady-state-hypothesis") or {}
    activities = [*hypothesis.get("probes", []), *experiment.get("method", []), *experiment.get("rollbacks", [])]
    found: dict[str, None] = {}
    for activity in activities:
        provider = activity.get("provider") or {}
        if str(provider.get("module", "")).startswith("chaosorca."):
            container = substitute(provider.get("arguments") or {}, configuration, secrets).get("container")
            if container:
                found[str(container)] = None
    return list(found)


def as_names(value: object, what: str) -> list[str] | None:
    """Return the names in a list or in comma-separated text. For None, return None.

    Raises:
        InvalidActivity: the value is neither a list nor text.
    """
    if value is None:
        return None
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise InvalidActivity(f"{what} {value!r} is not a list of names")
    return [name.strip() for name in names]


def check_arguments(control: Mapping[str, Any], checks: Mapping[str, Callable[[Any], object]]) -> None:
    """Check the arguments of a control for `chaos validate`. A value that contains `${` is not checked before the run.

    Arguments:
        control: the control as the experiment declares it.
        checks: for each argument of the control, a function that raises on a bad value.

    Raises:
        InvalidActivity: the control has no argument of that name, or a value is invalid.
    """
    for name, value in ((control.get("provider") or {}).get("arguments") or {}).items():
        if name not in checks:
            raise InvalidActivity(f"control {control.get('name')!r} has no argument {name!r}{nearest(name, checks)}")
        if "${" in str(value):
            continue
        try:
            checks[name](value)
        except (OrcaError, InvalidActivity) as error:
            raise InvalidActivity(f"control {control.get('name')!r}: {error}") from error


def logging_errors(doing: str, function: Callable[[], object]) -> None:
    """Call a function of a control, and log its errors, since a control must not end the experiment.

    Arguments:
        doing: what the function does, for the log.
        function: what to call.

    Raises:
        InterruptExecution: SIGTERM has arrived, which is not an error of the control.
    """
    try:
        function()
    except InterruptExecution:
        raise
    except (OrcaError, ActivityFailed) as error:
        logger.error("%s failed: %s", doing, error)
    except Exception as error:
        logger.error("%s failed: %s: %s", doing, type(error).__name__, error)
        logger.debug("%s failed", doing, exc_info=True)


def interruption(control: str, error: Exception) -> InterruptExecution:
    """Log an unforeseen error of a control. Return the exception that interrupts the experiment."""
    logger.error("%s: %s: %s", control, type(error).__name__, error)
    logger.debug("%s failed", control, exc_info=error)
    return InterruptExecution(f"the {control} control failed with {type(error).__name__}: {error}")
