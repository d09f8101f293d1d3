"""The `observe` control: Prometheus and monitoring run before the first hypothesis, and what it started stops at the end.

Arguments:
    containers: the containers to monitor; default: those that the experiment's activities name.
    label: instead, a label (key=value) that selects running containers.
    keep: leave Prometheus and monitoring running afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from chaoslib.exceptions import ChaosException, InterruptExecution
from logzero import logger

from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.actions.prometheus import start_prometheus, stop_prometheus
from chaosorca.controls.common import as_names, check_arguments, is_dry, logging_errors, named_containers
from chaosorca.engine.client import connect
from chaosorca.engine.containers import check_label, select_containers
from chaosorca.engine.prometheus import is_running
from chaosorca.exceptions import InvalidArgument, OrcaError
from chaosorca.metrics import measure
from chaosorca.model.values import as_bool
from chaosorca.sources import open_prometheus

__all__ = ["after_experiment_control", "before_experiment_control", "cleanup_control", "validate_control"]

_SCRAPES = 2


@dataclass
class _Started:
    configuration: Any = None
    prometheus: bool = False
    containers: list[str] = field(default_factory=list)


_started = _Started()


def validate_control(control: dict[str, Any]) -> None:
    """Check the arguments for `chaos validate`."""
    check_arguments(
        control,
        {
            "containers": lambda value: as_names(value, "containers"),
            "label": check_label,
            "keep": lambda value: as_bool(value, "keep"),
        },
    )


def before_experiment_control(
    context: Any,
    containers: Any = None,
    label: Any = None,
    keep: Any = False,
    configuration: Any = None,
    experiment: Any = None,
    **kwargs: Any,
) -> None:
    """Start what is missing, and wait for two scrapes; an error interrupts the experiment before anything else happens."""
    global _started
    if is_dry(experiment):
        return
    _started = _Started(configuration)
    try:
        names = as_names(containers, "containers") or ([] if label else named_containers(context, configuration))
        if not names and not label:
            raise InvalidArgument("the observe control knows no container: give it containers or label")
        client = connect(configuration)
        for name in names or [""]:  # before anything starts
            select_containers(client, name or None, None if name else label)
        if not (configuration or {}).get("prometheus_base_url") and not is_running(client):
            url = start_prometheus(port=0, configuration=configuration)["url"]
            _started.prometheus = True
            logger.info("observe: Prometheus is at %s", url)
        watched: list[str] = []
        for name in names or [""]:
            for target in start_monitoring(container=name or None, label=None if name else label, configuration=configuration):
                watched.append(target["name"])
                if target["new"]:
                    _started.containers.append(target["name"])
        measure.wait_for_scrapes(open_prometheus(configuration), watched, _SCRAPES)
        logger.info("observe: monitoring %s", ", ".join(watched))
    except (OrcaError, ChaosException) as error:
        logger.error("observe: %s", error)
        _stop()
        raise InterruptExecution(f"the observe control cannot do its work: {error}") from error
    except BaseException:
        _stop()
        raise
    if as_bool(keep, "keep"):
        _started = _Started()


def after_experiment_control(context: Any, experiment: Any = None, **kwargs: Any) -> None:
    """Stop what was started before, and only that."""
    _stop()


def cleanup_control() -> None:
    """Stop it where the experiment was left without its last controls."""
    _stop()


def _stop() -> None:
    # What has been stopped is struck off one by one: an interruption leaves the rest to `cleanup_control`.
    while _started.containers:
        logging_errors(
            "control observe",
            partial(stop_monitoring, container=_started.containers[-1], configuration=_started.configuration),
        )
        _started.containers.pop()
    if _started.prometheus:
        logging_errors("control observe", partial(stop_prometheus, configuration=_started.configuration))
        _started.prometheus = False
