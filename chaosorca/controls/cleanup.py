"""The `cleanup` control: no fault outlives the experiment, however it ended.

Arguments: none.
"""

from __future__ import annotations

from typing import Any

from logzero import logger

from chaosorca.controls.common import check_arguments, is_dry, logging_errors
from chaosorca.engine.agent import find_agent, retire_agent
from chaosorca.engine.client import connect
from chaosorca.engine.run import RUN_ID
from chaosorca.model.record import FaultRecord

__all__ = ["after_experiment_control", "before_experiment_control", "cleanup_control", "validate_control"]

_pending: dict[str, Any] = {}


def validate_control(control: dict[str, Any]) -> None:
    """Check the arguments for `chaos validate`."""
    check_arguments(control, {})


def before_experiment_control(context: Any, configuration: Any = None, experiment: Any = None, **kwargs: Any) -> None:
    """Remember the engine, for an end that does not come by `after_experiment_control`."""
    if not is_dry(experiment):
        _pending["configuration"] = configuration


def after_experiment_control(context: Any, configuration: Any = None, experiment: Any = None, **kwargs: Any) -> None:
    """End the faults that this run started."""
    if not is_dry(experiment):
        end_faults(configuration)


def cleanup_control() -> None:
    """End them where the experiment was left without its last controls."""
    if _pending:
        end_faults(_pending["configuration"])


def end_faults(configuration: Any) -> list[FaultRecord]:
    """End the faults that this run started, and the agent if that leaves it with nothing to do; errors are logged.

    Returns:
        the faults that were ended.
    """
    ended: list[FaultRecord] = []

    def end() -> None:
        client = connect(configuration)
        agent = find_agent(client)
        ended.extend(agent.stop_fault(run=RUN_ID) if agent else [])
        for fault in ended:
            logger.info("cleanup: ended the fault %s on container %s", fault.text, fault.container)
        retire_agent(client)

    logging_errors("control cleanup", end)
    _pending.clear()  # not before: an interruption of it is made good by `cleanup_control`
    return ended
