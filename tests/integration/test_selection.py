"""The selection of calls beyond `when`: budgets, probabilities, paths, processes; and several faults at once."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise
from statistics import mean, stdev
from typing import Any

import pytest
from chaoslib.exceptions import ActivityFailed

from chaosorca.actions.faults import start_fault, stop_fault
from chaosorca.probes.faults import fault_active, faults_injected
from tests.support.observer import (
    Observer,
    Observers,
    Round,
    Step,
    Worker,
    fault_on,
    observe,
)
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.usefixtures("one_agent_for_all"),
    pytest.mark.parametrize("injector", ["ptrace", "uprobe"]),  # strace supports none of this
]

EACCES, EIO = -13, -5


def test_a_budget_is_spent_exactly_and_then_the_fault_ends(injector: str, observers: Observers) -> None:
    observer = observers.get("dynamic")
    observer.prepare(Round(("openat",), 2000, alone=False, threads=8, early=True))
    started = start_fault(container=observer.name, injector=injector, syscall="openat", error="EACCES", max_faults=100)
    try:
        workers = observer.run()
        wait_for(lambda: not fault_active(observer.name), 3)
        assert observer.tracers() == {0}
        assert sum((worker.tally for worker in workers), Counter()) == {EACCES: 100, 1: 15_900}
        assert faults_injected(observer.name, fault=started["fault"]) == 100
    finally:
        assert stop_fault(container=observer.name)["stopped"] == []


def test_a_budget_covers_the_whole_container(injector: str, observers: Observers) -> None:
    """It covers all children and system calls together. Calls that `when` leaves out do not count."""
    observer = observers.get("bare")
    observer.prepare(Round(("getppid", "read"), 20, children=10))
    start_fault(container=observer.name, injector=injector, syscall="getppid,read", error="EIO", when="2+2", max_faults=50)
    try:
        workers = observer.run()
        wait_for(lambda: not fault_active(observer.name), 3)
        assert sum(worker.tally[EIO] for worker in workers) == faults_injected(observer.name) == 50
        first = workers[0]
        assert [result == EIO for result in first.of(0).results] == [False, True] * 10
    finally:
        stop_fault(container=observer.name)


def test_a_budget_that_is_not_spent_leaves_the_fault_active(injector: str, observers: Observers) -> None:
    observer = observers.get("static")
    observer.prepare(Round(("getppid",), 99))
    with fault_on(observer, injector, syscall="getppid", retval=7, max_faults="100"):
        (worker,) = observer.run()
        assert worker.tally == {7: 99}
        wait_for(lambda: faults_injected(observer.name) == 99, 2)
        assert fault_active(observer.name) is True


@pytest.mark.parametrize("program", ["dynamic", "bare"])
def test_a_probability_is_a_share_drawn_at_random(program: str, injector: str, observers: Observers) -> None:
    round_ = Round(("getppid",), 20_000)
    (worker,), injected = observe(observers.get(program), injector, round_, syscall="getppid", error="EIO", probability=0.1)
    assert injected == {"getppid": worker.tally[EIO]}
    assert worker.tally[EIO] + worker.tally[0] == 20_000
    assert 0.09 < worker.tally[EIO] / 20_000 < 0.11
    gaps = gaps_between_hits(worker)
    assert 8.5 < mean(gaps) < 11.5
    assert stdev(gaps) > 0.8 * mean(gaps), "independent draws have 0.95 times the mean, periodic ones 0"
    assert 0.05 < gaps.count(1) / len(gaps) < 0.15, "the call after a hit is hit as often as any other"
    assert max(gaps) > 40


def gaps_between_hits(worker: Worker) -> list[int]:
    hits = [place for place, result in enumerate(worker.results) if result == EIO]
    return [after - before for before, after in pairwise(hits)]


def test_threads_and_children_draw_independently(injector: str, observers: Observers) -> None:
    round_ = Round(("getppid",), 2000, threads=4, children=4)
    fault: dict[str, Any] = {"syscall": "getppid", "error": "EIO", "probability": "0.25"}
    workers, injected = observe(observers.get("dynamic"), injector, round_, **fault)
    patterns = {tuple(result == EIO for result in worker.results) for worker in workers}
    assert len(patterns) == len(workers) == 9
    assert all(0.2 < worker.tally[EIO] / 2000 < 0.3 for worker in workers)
    assert sum(injected.values()) == sum(worker.tally[EIO] for worker in workers)


def test_system_calls_draw_independently(injector: str, observers: Observers) -> None:
    round_ = Round(("getppid", "read"), 500)
    (worker,), _injected = observe(observers.get("dynamic"), injector, round_, syscall="getppid,read", error="EIO", probability=0.5)
    hits = [[result == EIO for result in worker.of(step).results] for step in (0, 1)]
    assert all(180 < sum(one) < 320 for one in hits)
    assert 180 < sum(one == other for one, other in zip(*hits, strict=True)) < 320


def test_calls_held_at_the_end_of_the_fault_count_as_hit(injector: str, observers: Observers) -> None:
    observer = observers.get("dynamic")
    observer.prepare(Round(("getppid",), 0, alone=False, threads=8, early=True, recorded=32))
    start_fault(container=observer.name, injector=injector, syscall="getppid", delay_enter="20s")
    observer.begin()
    time.sleep(1)
    (stopped,) = stop_fault(container=observer.name)["stopped"]
    observer.end_round()
    assert stopped["injected"]["getppid"] == sum(worker.seconds[0] > 0.1 for worker in observer.result()) == 8


def test_a_probability_applies_to_the_calls_that_when_allows(injector: str, observers: Observers) -> None:
    round_ = Round(("getppid",), 4000)
    fault: dict[str, Any] = {"syscall": "getppid", "retval": 4711, "probability": 0.5, "when": "2+2"}
    (worker,), _injected = observe(observers.get("musl"), injector, round_, **fault)
    assert set(worker.results[::2]) == {0}
    assert 0.45 < worker.tally[4711] / 2000 < 0.55


# path: as the container sees it, however a call refers to the file


@pytest.fixture
def tree(observers: Observers) -> Observer:
    """An observer with the files /board/sub/file and /board/sub/other, links to both and to the folder, and a hard link to file."""
    observer = observers.get("dynamic")
    folder = observer.directory / "sub"
    if not folder.exists():
        folder.mkdir()
        (folder / "file").write_text("x" * 64)
        (folder / "other").write_text("y" * 64)
        (folder / "link").symlink_to("file")
        (observer.directory / "absolute").symlink_to("/board/sub/file")
        (observer.directory / "way").symlink_to("sub")
    return observer


HITS = [
    Step("openat", path="/board/sub/file"),
    Step("openat", path="/board//sub/./file"),
    Step("openat", path="file"),
    Step("openat", path="./file"),
    Step("openat", path="../sub/file"),
    Step("openat", path="link"),
    Step("openat", path="/board/absolute"),
    Step("openat", path="/board/way/file"),
    Step("openat", path="../way/../sub/link"),
    Step("openat", file="/board", path="sub/file"),
    Step("openat", file="/board/way", path="file"),
    Step("openat", file="/tmp", path="/board/sub/file"),
    Step("read", file="/board/sub/file"),
    Step("pread64", file="/board/absolute"),
    Step("fstat", file="/board/way/link"),
    Step("newfstatat", path="link"),
    Step("stat", path="file"),
    Step("faccessat", path="../sub/file"),
    Step("lstat", path="file"),
]
MISSES = [
    (Step("openat", path="/board/sub/other"), 1),
    (Step("openat", path="other"), 1),
    (Step("openat", path="/board/sub"), 1),
    (Step("openat", path="/sub/file"), -2),
    (Step("openat", file="/", path="file"), -2),
    (Step("openat", path="fil"), -2),
    (Step("openat", path="file2"), -2),
    (Step("read", file="/board/sub/other"), 64),
    (Step("read", file="/dev/zero"), 64),
    (Step("fstat", file="/board/sub/other"), 0),
    (Step("lstat", path="link"), 0),
    (Step("readlinkat", path="link"), 4),
    (Step("stat", path="/etc/hostname"), 0),
    (Step("getppid"), 0),
]


def test_a_path_matches_every_reference_to_the_file_and_no_other(injector: str, tree: Observer) -> None:
    steps = [*HITS, *(step for step, _usual in MISSES)]
    round_ = Round(steps, 2, threads=2, directory="/board/sub")
    syscalls = "openat,read,pread64,fstat,newfstatat,stat,lstat,faccessat,readlinkat"
    workers, injected = observe(tree, injector, round_, syscall=syscalls, error="EIO", path="/board/sub/file")
    expected = [EIO] * len(HITS) + [usual for _step, usual in MISSES]
    for worker in workers:
        wrong = [
            (steps[place % len(steps)], result) for place, result in enumerate(worker.results) if result != (expected * 2)[place]
        ]
        # The result of a read depends on the position in the file, so only its sign is checked.
        wrong = [(step, result) for step, result in wrong if step.name != "read" or result == EIO or step in HITS]
        assert wrong == [], worker.role
    assert sum(injected.values()) == len(workers) * 2 * len(HITS)


def test_a_path_that_does_not_exist_yet(injector: str, tree: Observer) -> None:
    (tree.directory / "sub" / "new").unlink(missing_ok=True)
    round_ = Round(
        [Step("openat", path="new"), Step("creat", path="/board/sub/new"), Step("openat", path="none")], directory="/board/sub"
    )
    (worker,), injected = observe(tree, injector, round_, syscall="open*", error="EIO", path="/board/sub/new")
    assert worker.results == (EIO, EIO, -2)
    assert injected == {"openat": 1, "creat": 1}
    assert not (tree.directory / "sub" / "new").exists()


def test_when_counts_only_calls_on_the_path(injector: str, tree: Observer) -> None:
    round_ = Round([Step("openat", path="/board/sub/other"), Step("openat", path="/board/sub/file")], 6)
    (worker,), _injected = observe(tree, injector, round_, syscall="openat", error="EIO", path="/board/sub/file", when="2+2")
    assert worker.of(0).tally == {1: 6}
    assert worker.of(1).results == (1, EIO, 1, EIO, 1, EIO)


# process: by its command line, which is read again at exec


@pytest.mark.parametrize("program", ["dynamic", "bare"])
def test_only_processes_with_the_text_get_the_fault(program: str, injector: str, observers: Observers) -> None:
    """The first process does not have the text. Half of its children get it later, by exec."""
    round_ = Round(("getppid",), 5, children=6, become=("see wanted-text here", "something else"))
    for early in (False, True):
        observer = observers.get(program)
        observer.prepare(Round(**{**round_.__dict__, "early": early}))
        with fault_on(observer, injector, syscall="getppid", error="EIO", process="wanted-text") as running:
            workers = observer.run()
        assert tallies(workers, "alone") == [{0: 5}]
        assert tallies(workers, "child") == [{1: 5}] * 6
        assert tallies(workers, "executed") == [{EIO: 5}, {1: 5}] * 3
        assert running.injected == {"getppid": 15}


def test_a_process_that_loses_the_text_at_exec_loses_the_fault(injector: str, observers: Observers) -> None:
    observer = observers.get("dynamic", text="wanted-text")
    round_ = Round(("getppid",), 5, threads=2, children=6, become=("still wanted-text", "something else"))
    workers, injected = observe(observer, injector, round_, syscall="getppid", error="EIO", process="wanted-text")
    assert tallies(workers, "alone") == [{EIO: 5}]
    assert tallies(workers, "thread") == [{EIO: 5}] * 2
    assert tallies(workers, "child") == [{EIO: 5}] * 6
    assert tallies(workers, "executed") == [{EIO: 5}, {1: 5}] * 3
    assert injected == {"getppid": 5 + 10 + 30 + 15}


def tallies(workers: list[Worker], role: str) -> list[Counter[int]]:
    return [worker.tally for worker in workers if worker.role == role]


# several faults on one container


def test_one_of_two_faults_stays_in_force_when_the_other_ends(injector: str, observers: Observers) -> None:
    observer = observers.get("static")
    round_ = Round(("getppid", "openat"), 5)
    on: dict[str, Any] = {"container": observer.name, "injector": injector}
    observer.prepare(round_)
    try:
        first = start_fault(syscall="getppid", error="EIO", when="1+2", **on)["fault"]
        (worker,) = observer.run()
        assert worker.of(0).results == (EIO, 0, EIO, 0, EIO)
        assert worker.of(1).results == (1,) * 5

        observer.prepare(round_)
        second = start_fault(syscall="openat", retval=4711, when="2", **on)["fault"]  # type: ignore[arg-type]
        assert second != first
        with pytest.raises(ActivityFailed, match="getppid"):
            start_fault(syscall="getppid", retval=3, **on)  # type: ignore[arg-type]
        with pytest.raises(ActivityFailed, match="openat"):
            start_fault(syscall="read,open*", error="EIO", **on)
        (worker,) = observer.run()
        assert worker.of(0).results == (0, EIO, 0, EIO, 0), "calls 6 to 10: the count continues"
        assert worker.of(1).results == (1, 4711, 1, 1, 1)

        observer.prepare(round_)
        (ended,) = stop_fault(container=observer.name, syscall="openat")["stopped"]
        assert (ended["fault"], ended["injected"]) == (second, {"openat": 1})
        (worker,) = observer.run()
        assert worker.of(0).results == (EIO, 0, EIO, 0, EIO), "calls 11 to 15"
        assert worker.of(1).results == (1,) * 5
        wait_for(lambda: faults_injected(observer.name, fault=first) == 8, 2)
        assert faults_injected(observer.name, fault=second) == 1
        assert fault_active(observer.name) is True
    finally:
        stop_fault(container=observer.name)
    assert observer.tracers() == {0}


def test_two_faults_act_on_the_same_threads_and_children(injector: str, observers: Observers) -> None:
    observer = observers.get("dynamic")
    observer.prepare(Round(("getppid", "read", "write"), 10, threads=4, children=4))
    try:
        for syscall, error in (("getppid", "EIO"), ("read", "EACCES")):
            start_fault(container=observer.name, injector=injector, syscall=syscall, error=error, when="2..9")
        workers = observer.run()
    finally:
        stopped = stop_fault(container=observer.name)["stopped"]
    for worker in workers:
        assert worker.of(0).tally[EIO] == worker.of(1).tally[EACCES] == 8
        assert worker.of(2).tally == {64: 10}
    assert [one["injected"] for one in stopped] == [{"getppid": 72}, {"read": 72}]
    assert observer.tracers() == {0}
