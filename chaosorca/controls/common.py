"""What the controls share: which containers an experiment is about, checking arguments, and telling of their own errors.

Chaos Toolkit shows an error of a control in its debug log only, so each control logs its own.
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
    """Whether Chaos Toolkit only pretends: it skips activities then, but not controls."""
    return bool((experiment or {}).get("dry"))


def arguments_of(
    control: str, experiment: Mapping[str, Any] | None, configuration: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The arguments that an experiment gives to one of our controls; None if it does not have it."""
    for one in (experiment or {}).get("controls") or []:
        provider = one.get("provider") or {}
        if provider.get("module") == f"chaosorca.controls.{control}":
            return dict(substitute(provider.get("arguments") or {}, configuration, None))
    return None


def named_containers(experiment: Mapping[str, Any], configuration: Mapping[str, Any] | None) -> list[str]:
    """The containers that an experiment's activities of this extension name, in their order."""
    hypothesis = experiment.get("steady-state-hypothesis") or {}
    activities = [*hypothesis.get("probes", []), *experiment.get("method", []), *experiment.get("rollbacks", [])]
    found: dict[str, None] = {}
    for activity in activities:
        provider = activity.get("provider") or {}
        if str(provider.get("module", "")).startswith("chaosorca."):
            container = substitute(provider.get("arguments") or {}, configuration, None).get("container")
            if container:
                found[str(container)] = None
    return list(found)


def as_names(value: object, what: str) -> list[str] | None:
    """A list of names given as a list or as text with commas; None for none given."""
    if value is None:
        return None
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise InvalidActivity(f"{what} {value!r} is no list of names")
    return [name.strip() for name in names]


def check_arguments(control: Mapping[str, Any], checks: Mapping[str, Callable[[Any], object]]) -> None:
    """Check the arguments of a control as `chaos validate` gives it; a value with `${` in it can only be checked when it runs.

    Raises:
        InvalidActivity: an argument that the control does not have, or a value that makes no sense.
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
    """Do the work of a control that must not end the experiment: its errors are logged."""
    try:
        function()
    except InterruptExecution:
        raise  # SIGTERM, which is not the control's own
    except (OrcaError, ActivityFailed) as error:
        logger.error("%s failed: %s", doing, error)
    except Exception as error:
        logger.error("%s failed: %s: %s", doing, type(error).__name__, error)
        logger.debug("%s failed", doing, exc_info=True)
