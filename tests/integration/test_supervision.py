"""Tracers that are killed, stopped or keep dying: the agent notices and reports it, and replaces them or gives up."""

from __future__ import annotations

import functools
import os
import signal
import time

import pytest
from chaoslib.exceptions import ActivityFailed

from chaosorca.actions.faults import start_fault, stop_fault
from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.probes.faults import fault_active, faults_injected
from tests.support.agent_state import last_fault, scrape
from tests.support.project import needs_root
from tests.support.waiting import becomes, wait_for
from tests.support.web import Web

pytestmark = [pytest.mark.usefixtures("end_all_faults"), needs_root]

TRIES = 3
"""One of so many tries must be in time, since the machine may be busy."""


def is_replaced(web: Web, tracer: int) -> bool:
    """Return whether each thread is traced, and by another tracer."""
    return not {0, tracer} & web.tracers()


def tracer_of(web: Web) -> int:
    return min(web.tracers() - {0})


@pytest.mark.parametrize("injector", ["uprobe", "ptrace", "strace"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_a_tracer_is_replaced_and_reported_within_a_second(how: signal.Signals, injector: str, web: Web) -> None:
    start_monitoring(container=web.name)
    start_fault(container=web.name, syscall="openat", error="EACCES", injector=injector)
    assert web.get() == 403
    took: list[float] = []
    while not took or (min(took) > 1.2 and len(took) < TRIES):
        tracer = tracer_of(web)
        os.kill(tracer, how)
        # A stopped tracer freezes its tracees until the agent notices.
        took.append(wait_for(functools.partial(is_replaced, web, tracer), 5))
        assert [web.get() for _ in range(5)] == [403] * 5
    assert min(took) <= 1.2
    becomes(lambda: last_fault()["tracer_restarts"], len(took))
    assert scrape()[f'chaosorca_agent_tracer_restarts_total{{container="{web.name}"}}'] == len(took)
    stop_fault(container=web.name)
    assert web.get() == 200
    assert web.tracers() == {0}
    stop_monitoring(container=web.name)


def test_what_was_spent_of_a_budget_stays_spent(web: Web) -> None:
    start_fault(container=web.name, syscall="openat", error="EACCES", max_faults=10)
    assert [web.get() for _ in range(6)] == [403] * 6
    first = web.tracers()
    for tracer in first:
        os.kill(tracer, signal.SIGKILL)
    wait_for(lambda: not {0, *first} & web.tracers(), 2)
    assert [web.get() for _ in range(8)] == [403] * 4 + [200] * 4
    wait_for(lambda: not fault_active(web.name), 2)
    assert (last_fault()["reason"], faults_injected(web.name)) == ("its budget was spent", 10)
    assert web.tracers() == {0}


def test_a_tracer_that_keeps_dying_ends_the_fault(web: Web) -> None:
    start_fault(container=web.name, syscall="openat", error="EACCES")
    end = time.monotonic() + 9
    while fault_active(web.name) and time.monotonic() < end:
        for tracer in web.tracers() - {0}:
            os.kill(tracer, signal.SIGKILL)
        time.sleep(0.1)
    assert last_fault()["reason"] == "its tracer ended 6 times in 10 s"
    assert [web.get() for _ in range(5)] == [200] * 5
    assert web.tracers() == {0}


def test_a_warning_names_a_call_that_is_never_made(web: Web) -> None:
    start_monitoring(container=web.name)
    assert web.get() == 200
    started = start_fault(container=web.name, syscall="open", error="EACCES")
    assert len(started["warnings"]) == 1
    assert "has not been seen to call open: it calls openat instead" in started["warnings"][0]
    assert web.get() == 200
    assert (last_fault()["state"], faults_injected(web.name)) == ("never fired", 0)
    stop_monitoring(container=web.name)


def test_without_a_monitor_the_first_seconds_decide(web: Web) -> None:
    assert start_fault(container=web.name, syscall="stat", error="EACCES", injector="ptrace")["warnings"] == []
    end = time.monotonic() + 3.5
    while time.monotonic() < end:
        assert web.get() == 200
        time.sleep(0.1)
    (warning,) = last_fault()["warnings"]
    assert "has not been seen to call stat: it calls " in warning
    assert "newfstatat" in warning


def test_a_strace_fault_leaves_no_room_for_another_tracer(web: Web) -> None:
    start_fault(container=web.name, syscall="openat", error="EACCES", injector="strace")
    with pytest.raises(ActivityFailed, match="by strace already, and a thread can have only one tracer"):
        start_fault(container=web.name, syscall="read", error="EIO")
    assert web.get() == 403
