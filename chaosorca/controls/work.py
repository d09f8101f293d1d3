"""The work that the controls share. Each part is done once, by the first control that is called."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from chaoslib.exceptions import InterruptExecution
from chaoslib.run import RunEventHandler
from logzero import logger

from chaosorca.controls.common import logging_errors
from chaosorca.controls.results import collect, export
from chaosorca.controls.run import Run, Task, forget_run, run_of
from chaosorca.controls.verdict import fail, judge, stopped_faults
from chaosorca.engine.agent import find_agent, retire_agent
from chaosorca.engine.client import connect
from chaosorca.engine.run_id import RUN_ID

_AT_END = ("cleanup", "verify", "export")
"""The controls that share the work at the end. `observe` does its own work."""


def configure_control(
    experiment: Any = None, configuration: Any = None, secrets: Any = None, event_registry: Any = None, **kwargs: Any
) -> None:
    """Begin the run, and register for its events. Chaos Toolkit calls this function for each control before any other function."""
    run = run_of(experiment, configuration, secrets)
    if event_registry is not None and not run.has_handler:
        event_registry.register(_Events(run))
        run.has_handler = True


def before_rollbacks(run: Run) -> None:
    """Read metrics and faults before a rollback removes them. A rollback may stop Prometheus or the agent."""
    if run.is_dry or run.collected_before_rollbacks:
        return
    run.ask_agent()
    for task in run.tasks():
        if task.control == "export":
            logging_errors("control export (before the rollbacks)", partial(collect, run, task.arguments))
    run.collected_before_rollbacks = True


def finish(run: Run, journal: Any, *own: Task) -> None:
    """Do the work at the end of an experiment: cleanup, verify and export, in this order.

    The faults end first, since the verdict needs their final records. The report is last, since it shows the verdict. Each control
    calls this function. A completed task is not repeated.

    Arguments:
        run: the run of the experiment.
        journal: the run's journal.
        own: the task of the calling control.
    """
    pending: list[Task] = []
    for task in [*run.tasks(), *own]:
        if task.control in _AT_END and task not in run.done and task not in pending:
            pending.append(task)
    if run.is_dry or not pending:
        return
    journal = journal if isinstance(journal, dict) else {}
    run.ask_agent()
    logging_errors("reading the faults that the experiment stopped", lambda: run.keep_ended(stopped_faults(journal)))
    if any(task.control == "cleanup" for task in pending):
        end_faults(run)
    for task in pending:
        if task.control == "verify":
            logging_errors("control verify", partial(_judge, run, journal, task.arguments))
            run.done.append(task)
    for task in pending:
        if task.control == "export":
            logging_errors("control export", partial(_export, run, journal, task.arguments))
            run.done.append(task)


def _judge(run: Run, journal: dict[str, Any], arguments: Mapping[str, Any]) -> None:
    """Judge the faults of an experiment. A verdict that cannot be reached is a failure."""
    try:
        judge(run, journal, **arguments)
    except InterruptExecution:
        raise
    except Exception as error:
        fail(journal, f"the faults could not be judged: {error or type(error).__name__}")
        raise


def _export(run: Run, journal: dict[str, Any], arguments: Mapping[str, Any]) -> None:
    """Write the results of an experiment. Results that cannot be written are a failure."""
    try:
        export(run, journal, arguments)
    except OSError as error:
        fail(journal, f"the results could not be written: {error}")
        raise


def end_faults(run: Run) -> None:
    """End the faults that this process has started, and remove the agent if it is idle. Errors are logged.

    After an interruption, `cleanup_control` calls this function again.
    """
    cleanup = Task("cleanup", {})
    if run.is_dry or cleanup in run.done:
        return

    def end() -> None:
        client = connect(run.configuration)
        agent = find_agent(client)
        ended = agent.stop_fault(run=RUN_ID) if agent else []
        run.keep_ended(ended)
        for fault in ended:
            logger.info("cleanup: ended fault %s on container %s", fault.text, fault.container)
        retire_agent(client)

    logging_errors("control cleanup", end)
    run.done.append(cleanup)


class _Events(RunEventHandler):  # type: ignore[misc]
    """Handles events of Chaos Toolkit for which controls are not called."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._journal: dict[str, Any] = {}

    def running(self, experiment: Mapping[str, Any], journal: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        self._journal = journal

    def start_rollbacks(self, experiment: Mapping[str, Any]) -> None:
        # If the experiment has controls of its own, Chaos Toolkit calls no global control before the rollbacks.
        if experiment.get("controls") and self._run.global_tasks():
            try:
                before_rollbacks(self._run)
            except InterruptExecution as error:  # Chaos Toolkit discards the errors of a handler
                self._journal["status"] = "interrupted"
                logger.critical(str(error))

    def finish(self, journal: dict[str, Any]) -> None:
        forget_run()
