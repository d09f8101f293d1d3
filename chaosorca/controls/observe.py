"""The `observe` control starts Prometheus and monitoring before the experiment, and stops both after the experiment.

Arguments:
    containers: the containers to monitor; default: the containers that the experiment's activities name.
    label: instead of containers, a label (key=value) that selects running containers.
    keep: leave Prometheus and monitoring running afterwards; default: false.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from chaoslib.exceptions import ChaosException, InterruptExecution
from logzero import logger

from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.actions.prometheus import start_prometheus, stop_prometheus
from chaosorca.controls.common import as_names, check_arguments, interruption, logging_errors, named_containers
from chaosorca.controls.run import Run, current_run, run_of
from chaosorca.controls.work import configure_control, finish
from chaosorca.engine.client import connect
from chaosorca.engine.containers import check_label, select_containers
from chaosorca.engine.prometheus import is_running
from chaosorca.exceptions import InvalidArgument, OrcaError
from chaosorca.metrics import measure
from chaosorca.model.values import as_bool
from chaosorca.sources import open_prometheus

__all__ = ["after_experiment_control", "before_experiment_control", "cleanup_control", "configure_control", "validate_control"]

_SCRAPES = 2


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
    secrets: Any = None,
    **kwargs: Any,
) -> None:
    """Start Prometheus and monitoring if they do not run, and wait for two scrapes. An error interrupts the experiment."""
    run = run_of(experiment, configuration, secrets)
    if run.is_dry:
        return
    try:
        names = as_names(containers, "containers") or ([] if label else named_containers(context, configuration, secrets))
        _start(run, names, label)
    except (OrcaError, ChaosException) as error:
        logger.error("observe: %s", error)
        _stop(run)
        raise InterruptExecution(f"the observe control cannot do its work: {error}") from error
    except Exception as error:  # an experiment must not continue unobserved
        _stop(run)
        raise interruption("observe", error) from error
    except BaseException:
        _stop(run)
        raise
    if as_bool(keep, "keep"):
        run.started_prometheus = False
        run.started_monitoring.clear()


def after_experiment_control(
    context: Any, configuration: Any = None, experiment: Any = None, secrets: Any = None, state: Any = None, **arguments: Any
) -> None:
    """Stop what this control has started. The results are read first, since stopping Prometheus removes its data."""
    run = run_of(experiment, configuration, secrets)
    finish(run, state)
    _stop(run)


def cleanup_control() -> None:
    """If an interruption has prevented `after_experiment_control`, stop what this control has started."""
    run = current_run()
    if run is not None:
        _stop(run)


def _start(run: Run, names: list[str], label: Any) -> None:
    if not names and not label:
        raise InvalidArgument("the observe control does not know what to monitor: give it containers or label")
    configuration = run.configuration
    client = connect(configuration)
    for name in names or [""]:  # reports a wrong container before anything starts
        select_containers(client, name or None, None if name else label)
    if not (configuration or {}).get("prometheus_base_url") and not is_running(client):
        url = start_prometheus(port=0, configuration=configuration)["url"]
        run.started_prometheus = True
        logger.info("observe: Prometheus is at %s", url)
    monitored: list[str] = []
    for name in names or [""]:
        for target in start_monitoring(container=name or None, label=None if name else label, configuration=configuration):
            monitored.append(target["name"])
            if target["new"]:
                run.started_monitoring.append(target["name"])
    measure.wait_for_scrapes(open_prometheus(configuration), monitored, _SCRAPES)
    logger.info("observe: monitoring %s", ", ".join(monitored))


def _stop(run: Run) -> None:
    # An item is forgotten only after it has stopped. After an interruption, `cleanup_control` stops the remaining items.
    while run.started_monitoring:
        logging_errors(
            "control observe", partial(stop_monitoring, container=run.started_monitoring[-1], configuration=run.configuration)
        )
        run.started_monitoring.pop()
    if run.started_prometheus:
        logging_errors("control observe", partial(stop_prometheus, configuration=run.configuration))
        run.started_prometheus = False
