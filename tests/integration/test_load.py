"""Many calls, threads, children, starts and stops: nothing is missed, nothing breaks, nothing hangs."""

from __future__ import annotations

import functools
import os
import signal
import time

import pytest

from chaosorca.actions.faults import start_fault
from tests.support.observer import INJECTORS, Observer, Observers, Round, fault_on, observe
from tests.support.project import needs_root
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("one_agent_for_all")


EACCES = -13
FULL = os.environ.get("CHAOSORCA_FULL") == "1"
PLACEBO_CALLS = {
    "strace": 100_000,
    "ptrace": 1_000_000 if FULL else 200_000,
    "uprobe": 1_000_000 if FULL else 500_000,
}  # as they are slower


def is_replaced(observer: Observer, tracer: int) -> bool:
    """Return whether each thread is traced, and by another tracer."""
    return observer.tracers().isdisjoint({0, tracer})


@pytest.mark.parametrize("injector", INJECTORS)
def test_no_result_of_very_many_calls_differs_under_a_placebo(injector: str, observers: Observers) -> None:
    calls = PLACEBO_CALLS[injector]
    round_ = Round(("getppid",), calls // 4, alone=False, threads=4, recorded=0)
    fault = {"syscall": "getppid", "error": "EACCES", "placebo": True}
    workers, injected = observe(observers.get("dynamic"), injector, round_, within=300, **fault)
    assert [worker.tally for worker in workers] == [{0: calls // 4}] * 4
    assert injected == {}


@pytest.mark.parametrize(  # not strace: calls in flight return ENOSYS when it ends
    ("injector", "confined", "times"),
    [("ptrace", True, 30 if FULL else 10), ("uprobe", True, 30 if FULL else 15), ("ptrace", False, 5)],
    ids=["ptrace", "uprobe", "ptrace without a seccomp profile"],
)
def test_busy_threads_see_only_real_results_and_the_fault(injector: str, confined: bool, times: int, observers: Observers) -> None:
    observer = observers.get("dynamic", confined=confined)
    strays = observer.strays()
    observer.prepare(Round(("getppid", "write", "openat"), 0, alone=False, threads=8))
    observer.begin()
    injected = 0
    for _ in range(times):
        with fault_on(observer, injector, syscall="getppid,write,openat", error="EACCES") as running:
            time.sleep(0.05)
        injected += sum(running.injected.values())
    observer.end_round()
    workers = observer.result()
    for worker in workers:
        assert set(worker.tally) <= {0, 64, 1, EACCES}, worker
        assert worker.tally[EACCES] > 0, worker
        assert worker.signals == 0, f"a signal that stops a thread has reached the program: {worker}"
    assert observer.strays() == strays
    assert sum(worker.tally[EACCES] for worker in workers) == injected


KILLS = 5
"""A sixth restart within ten seconds is not made."""


@needs_root
def test_busy_threads_see_nothing_else_while_tracers_are_killed(observers: Observers) -> None:
    """Each kill may leave a thread with one signal: the one that has just stopped it or was about to."""
    observer = observers.get("dynamic")
    strays = observer.strays()
    observer.prepare(Round(("getppid", "write", "openat"), 0, alone=False, threads=8))
    observer.begin()
    with fault_on(observer, "uprobe", syscall="getppid,write,openat", error="EACCES"):
        for _ in range(KILLS):
            (tracer,) = observer.tracers()
            os.kill(tracer, signal.SIGKILL)
            wait_for(functools.partial(is_replaced, observer, tracer), 3)
    observer.end_round()
    workers = observer.result()
    signals = [worker.signals for worker in workers]
    print(f"{KILLS} tracers killed; signals that came, by thread: {signals}, {observer.strays() - strays} between calls")  # noqa: T201
    for worker in workers:
        assert set(worker.tally) <= {0, 64, 1, EACCES}, worker
        assert worker.tally[EACCES] > 0, worker
    assert max(signals) <= KILLS


HELD_AT_ONCE = 100


@pytest.mark.parametrize("injector", INJECTORS)
def test_a_hundred_threads_are_held_at_the_same_time(injector: str, observers: Observers) -> None:
    """If they were held one after the other, they would take 30 s."""
    observer = observers.get("dynamic")
    observer.prepare(Round(("getppid",), 1, alone=False, threads=HELD_AT_ONCE, early=True))
    with fault_on(observer, injector, syscall="getppid", delay_enter="300ms") as running:
        began = time.monotonic()
        workers = observer.run()
        took = time.monotonic() - began
    seconds = sorted(worker.seconds[0] for worker in workers)
    print(f"held for {seconds[0]:.3f} to {seconds[-1]:.3f} s, all in {took:.3f} s")  # noqa: T201
    assert running.injected == {"getppid": HELD_AT_ONCE}
    assert seconds[0] >= 0.3 and seconds[-1] < 3, seconds
    assert took < 6


@pytest.mark.parametrize("injector", ["ptrace", "uprobe"])
def test_threads_are_held_for_different_times_at_the_same_time(injector: str, observers: Observers) -> None:
    """At first each half of the threads is held by one of the faults; later they mix."""
    observer = observers.get("dynamic")
    observer.prepare(Round(("getppid", "getpriority"), 2, alone=False, threads=HELD_AT_ONCE, early=True))
    with fault_on(observer, injector, syscall="getppid", delay_enter="300ms", probability=0.5) as running:
        start_fault(container=observer.name, injector=injector, syscall="getpriority", delay_exit="1200ms")
        workers = observer.run()
    short = [seconds for worker in workers for seconds in worker.of(0).seconds]
    long = [seconds for worker in workers for seconds in worker.of(1).seconds]
    held = [seconds for seconds in short if seconds >= 0.3]
    print(f"{len(held)} held for {min(held):.3f} to {max(held):.3f} s, all others for {min(long):.3f} to {max(long):.3f} s")  # noqa: T201
    assert 60 < len(held) == running.injected["getppid"] < 140
    assert max(held) < 1.2, "threads that are held for 1.2 s do not delay the others"
    assert min(long) >= 1.2 and max(long) < 2.4


@pytest.mark.parametrize("injector", ["ptrace", "uprobe"])
def test_busy_children_see_only_real_results_and_the_fault(injector: str, observers: Observers) -> None:
    observer = observers.get("bare")
    observer.prepare(Round(("getppid",), 0, alone=False, children=8, early=True))
    observer.begin()
    injected = 0
    began = time.monotonic()
    for _ in range(8):
        with fault_on(observer, injector, syscall="getppid", retval=4711) as running:
            time.sleep(0.05)
        injected += sum(running.injected.values())
    took = time.monotonic() - began
    observer.end_round()
    assert took < 8 * 4, f"{took} s: processes besides the tracers and the children got no processor time"
    workers = observer.result()
    assert all(set(worker.tally) == {1, 4711} for worker in workers), workers
    assert sum(worker.tally[4711] for worker in workers) == injected


@pytest.mark.parametrize("injector", INJECTORS)
@pytest.mark.parametrize("program", ["dynamic", "musl"])
def test_five_hundred_threads_are_all_attached_and_all_released(program: str, injector: str, observers: Observers) -> None:
    observer = observers.get(program)
    observer.prepare(Round(("getppid", "openat"), 4, threads=500, early=True))
    with fault_on(observer, injector, syscall="openat", error="EACCES", when="2+2") as running:
        assert 0 not in observer.tracers()
        workers = observer.run()
    assert {worker.of(1).results for worker in workers} == {(1, EACCES, 1, EACCES)}
    assert {worker.of(0).results for worker in workers} == {(0, 0, 0, 0)}
    assert running.injected == {"openat": 501 * 2}


@pytest.mark.parametrize("injector", INJECTORS)
def test_threads_that_wait_are_released_without_having_made_a_call(injector: str, observers: Observers) -> None:
    observer = observers.get("static")
    observer.prepare(Round(("getppid",), 4, threads=100, children=20, early=True))
    for _ in range(3):
        with fault_on(observer, injector, syscall="getppid", error="EACCES") as running:
            pass
        assert running.injected == {}
    assert {result for worker in observer.run() for result in worker.tally} == {0, 1}


@pytest.mark.parametrize("injector", INJECTORS)
@pytest.mark.parametrize("program", ["dynamic", "bare"])
def test_of_two_hundred_forks_a_second_each_child_gets_the_fault(program: str, injector: str, observers: Observers) -> None:
    observer = observers.get(program)
    observer.prepare(Round(("getppid", "openat"), 2, children=500, pause=0.004))
    with fault_on(observer, injector, syscall="getppid,openat", error="EACCES") as running:
        begin = time.monotonic()
        workers = observer.run()
        took = time.monotonic() - begin
    assert {worker.results for worker in workers} == {(EACCES,) * 4}
    assert running.injected == {"getppid": 1002, "openat": 1002}
    assert 500 / took > 100, f"{500 / took} forks/s are too few for this test"


@pytest.mark.parametrize("injector", ["ptrace", "uprobe"])
def test_children_that_are_forked_while_the_fault_begins_and_ends(injector: str, observers: Observers) -> None:
    """A child that is forked at the edge of the fault continues, and gets nothing but the fault."""
    observer = observers.get("musl")
    observer.prepare(Round(("getppid",), 1, alone=False, children=1000, pause=0.002))
    observer.begin()
    for _ in range(3):
        with fault_on(observer, injector, syscall="getppid", error="EACCES"):
            time.sleep(0.3)
    workers = observer.result()
    assert {result for worker in workers for result in worker.tally} == {1, EACCES}
