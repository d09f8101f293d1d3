"""The tracer under AddressSanitizer and UndefinedBehaviorSanitizer: an error ends it, which shows as a restart."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import docker
import pytest

from chaosorca.actions.faults import start_fault, stop_all_faults, stop_fault
from chaosorca.engine.agent import find_agent
from chaosorca.engine.client import connect
from tests.support.cases import CASES, REPEATS, Case
from tests.support.engine_state import check_leftovers, remove_leftovers
from tests.support.observer import Observers, Round, Step, can, fault_on, observe

pytestmark = pytest.mark.usefixtures("one_agent_for_all", "no_tracer_has_failed")


@pytest.fixture(scope="module")
def one_agent_for_all(client: docker.DockerClient, sanitized_agent: str) -> Iterator[None]:
    """Keep one agent with the sanitized tracer for all tests of this module, in place of conftest's fixture."""
    remove_leftovers(client)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chaosorca.engine.agent.ensure_image", lambda *_: sanitized_agent)
        yield
        stop_all_faults()
    check_leftovers(client)


@pytest.fixture
def no_tracer_has_failed() -> Iterator[None]:
    """Check that no tracer was restarted during the test."""
    yield
    agent = find_agent(connect())
    faults = agent.ask("status")["faults"] if agent else []
    assert [(one["text"], one["reason"]) for one in faults if one["tracer_restarts"]] == []


@pytest.mark.parametrize(
    ("injector", "case"),
    [
        pytest.param(injector, case, id=f"{name}-{injector}")
        for number, (name, case) in enumerate(CASES.items())
        for injector in ("uprobe", "ptrace")
        if can(injector, case.fault) and (number % 3 == 0 or os.environ.get("CHAOSORCA_FULL") == "1")
    ],
)
def test_all_effects(injector: str, case: Case, observers: Observers) -> None:
    round_ = Round(case.steps, REPEATS, threads=case.threads, children=3, early=case.early)
    workers, injected = observe(observers.get("dynamic"), injector, round_, **case.fault)
    hit = [step for step in case.steps if step not in case.misses]
    assert sum(injected.values()) == len(workers) * len(hit) * len(case.hits)


@pytest.mark.parametrize("injector", ["uprobe", "ptrace"])
def test_faults_that_come_and_go_while_others_stay(injector: str, observers: Observers) -> None:
    observer = observers.get("dynamic")
    observer.prepare(Round(("getppid", "write", Step("openat", path="/etc/hostname")), 0, alone=False, threads=8, children=2))
    observer.begin()
    with fault_on(observer, injector, syscall="openat", error="EACCES", path="/etc/../etc/hostname", process="observer"):
        for _ in range(3):
            start_fault(container=observer.name, syscall="getppid", retval=3, probability=0.5)  # type: ignore[arg-type]
            start_fault(container=observer.name, syscall="write", delay_enter="5ms", delay_exit="5ms", max_faults=50)
            time.sleep(0.1)
            stop_fault(container=observer.name, syscall="write")
            stop_fault(container=observer.name, syscall="getppid")
    observer.end_round()
    observer.result()


@pytest.mark.parametrize("injector", ["uprobe", "ptrace"])
def test_many_threads_and_children(injector: str, observers: Observers) -> None:
    observer = observers.get("musl")
    round_ = Round(("getppid", "openat"), 4, threads=300, children=100, early=False)
    workers, injected = observe(observer, injector, round_, syscall="openat", error="EACCES", when="2+2", delay_enter="1ms")
    assert injected == {"openat": 2 * len(workers)}
