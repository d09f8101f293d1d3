"""Everything that can happen to a fault in force: the events of the crash matrix."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from chaosorca.actions.faults import stop_fault
from tests.support.crashes.model import ENDS, EXPIRES, STAYS, Event
from tests.support.crashes.round import LATEST_MOMENT, Round
from tests.support.waiting import wait_for

_MOST_BETWEEN = 0.005
"""The longest time between two kills that belong together, in seconds."""


def kill_chaos(how: signal.Signals) -> Callable[[Round], None]:
    """Send `chaos run` a signal."""

    def trigger(one: Round) -> None:
        assert one.chaos is not None
        one.measure_from_now()
        one.chaos.send_signal(how)
        if how is not signal.SIGKILL:
            one.wait_for_chaos(how)

    return trigger


def kill_agent(one: Round) -> None:
    """Kill the agent."""
    one.measure_from_now()
    one.agent().kill("SIGKILL")


def freeze_agent(one: Round) -> None:
    """Stop the agent by SIGSTOP."""
    one.freeze_agent()


def freeze_and_kill_agent(one: Round) -> None:
    """Stop the agent by SIGSTOP, and kill it a moment later."""
    one.freeze_agent()
    one.pause()
    kill_agent(one)


def remove_agent(one: Round) -> None:
    """Remove the agent's container."""
    one.measure_from_now()
    one.agent().remove(force=True)


def signal_tracer(how: signal.Signals) -> Callable[[Round], None]:
    """Send a signal to one of the tracers."""

    def trigger(one: Round) -> None:
        tracer = one.rng.choice(sorted(one.target.tracers() - {0}))
        one.old_tracers = {tracer}
        os.kill(tracer, how)

    return trigger


def kill_tracer_and_agent(tracer_first: bool) -> Callable[[Round], None]:
    """Kill the tracers and the agent within milliseconds of each other."""

    def trigger(one: Round) -> None:
        agent = one.agent()
        agent.reload()
        pids = [*sorted(one.target.tracers() - {0}), int(agent.attrs["State"]["Pid"])]
        one.measure_from_now()
        for pid in pids if tracer_first else reversed(pids):
            with contextlib.suppress(ProcessLookupError):  # the tracer has already ended together with its agent
                os.kill(pid, signal.SIGKILL)
            one.pause(_MOST_BETWEEN)

    return trigger


def kill_target(one: Round) -> None:
    """Kill the target's container, and start it again."""
    container = one.target.container
    container.kill()
    container.wait()
    one.pause()
    container.start()
    one.target.refresh()


def restart_target(one: Round) -> None:
    """Restart the target's container."""
    one.target.container.restart(timeout=1)
    one.target.refresh()


def pause_target(one: Round) -> None:
    """Pause the target's container for a moment."""
    container = one.target.container
    container.pause()
    one.pause()
    container.unpause()


def stop_fault_of_paused_target(one: Round) -> None:
    """Stop the fault while the target's container is paused."""
    container = one.target.container
    container.pause()
    one.pause()
    stop_fault(container=one.target.name, configuration=one.engine.configuration)
    container.unpause()


def restart_daemon(one: Round) -> None:
    """Stop the engine's daemon for a moment."""
    live_restore = one.event.live_restore
    assert live_restore is not None and one.ends_by is not None
    one.engine.stop()
    if live_restore and one.ends_by - time.monotonic() > 1.0:
        one.complaints += one.not_in_force()
    one.pause(one.event.duration if live_restore else LATEST_MOMENT)
    one.engine.start(live_restore)
    wait_for(one.target.refresh)


EVENTS = (
    # name, trigger, effect on the fault, allowed states of the agent
    Event("chaos-SIGKILL", kill_chaos(signal.SIGKILL), EXPIRES, ("runs", "dead", "gone"), duration=3, by_chaos=True),
    Event("chaos-SIGTERM", kill_chaos(signal.SIGTERM), ENDS, ("gone",), by_chaos=True),
    Event("chaos-SIGINT", kill_chaos(signal.SIGINT), ENDS, ("gone",), by_chaos=True),
    Event("agent-SIGKILL", kill_agent, ENDS, ("dead",)),
    Event("agent-SIGSTOP", freeze_agent, EXPIRES, ("runs",), duration=3),
    Event("agent-SIGSTOP-SIGKILL", freeze_and_kill_agent, ENDS, ("dead",)),
    Event("agent-rm", remove_agent, ENDS, ("gone",)),
    Event("tracer-SIGKILL", signal_tracer(signal.SIGKILL), STAYS, ("runs",)),
    Event("tracer-SIGSTOP", signal_tracer(signal.SIGSTOP), STAYS, ("runs",)),
    Event("tracer-agent-SIGKILL", kill_tracer_and_agent(True), ENDS, ("dead",), full_load=True),
    Event("agent-tracer-SIGKILL", kill_tracer_and_agent(False), ENDS, ("dead",), full_load=True),
    Event("target-kill", kill_target, STAYS, ("runs",), restarted=True),
    Event("target-restart", restart_target, STAYS, ("runs",), restarted=True),
    Event("target-pause", pause_target, STAYS, ("runs",)),
    Event("target-pause-stop", stop_fault_of_paused_target, ENDS, ("runs",)),
    Event("daemon-live-restore", restart_daemon, EXPIRES, ("runs",), duration=5, live_restore=True),
    Event("daemon-restart", restart_daemon, ENDS, ("dead",), restarted=True, live_restore=False),
)
