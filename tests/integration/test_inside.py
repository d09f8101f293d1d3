"""Faults seen from the inside: what a program gets from each system call, in each thread and each child."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from chaosorca.probes.faults import fault_active, faults_injected
from tests.support.cases import CASES, EVERY, REPEATS, Case
from tests.support.observer import (
    INJECTORS,
    PROGRAMS,
    Observer,
    Observers,
    Round,
    Worker,
    can,
    fault_on,
    normal,
    observe,
)
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("one_agent_for_all")

FEWER = ("dynamic",)  # the place of a system call makes no difference to ptrace; CHAOSORCA_FULL=1 runs all programs
_SLACK = 1.0
TRIES = 5  # the machine itself may delay a call


@pytest.mark.parametrize(
    ("case", "injector", "program"),
    [
        pytest.param(case, injector, program, id=f"{name}-{injector}-{program}")
        for name, case in CASES.items()
        for injector in INJECTORS
        if can(injector, case.fault)
        for program in PROGRAMS
        if program in FEWER or injector == "uprobe" or os.environ.get("CHAOSORCA_FULL") == "1"
    ],
)
def test_a_program_sees_the_fault_on_exactly_the_selected_calls(
    injector: str, case: Case, program: str, observers: Observers
) -> None:
    round_ = Round(case.steps, REPEATS, threads=0 if program == "bare" else case.threads, children=3, early=case.early)
    observer = observers.get(program)
    for _ in range(TRIES):
        workers = make_round(observer, injector, round_, case)
        slow = [slow_others(worker.of(place), step, case) for worker in workers for place, step in enumerate(case.steps)]
        if not any(slow):
            return
    raise AssertionError(f"calls that should not be held took as long in each try: {slow}")


def make_round(observer: Observer, injector: str, round_: Round, case: Case) -> list[Worker]:
    """Make a round, and check everything except delays of other calls; return what the workers recorded."""
    strays = observer.strays()
    workers, injected = observe(observer, injector, round_, **case.fault)
    hit = [step for step in case.steps if step not in case.misses]
    for worker in workers:
        for place, step in enumerate(case.steps):
            check_step(worker.of(place), step, case)
        assert worker.signals == case.signals * len(case.hits) * len(hit), worker
    assert observer.strays() == strays, "a signal came between calls"
    assert sum(injected.values()) == len(workers) * len(hit) * len(case.hits)
    if hit != ["fork"]:  # some libcs make it by clone
        assert injected == {step: len(workers) * len(case.hits) for step in hit if case.hits}
    return workers


def check_step(seen: Worker, step: str, case: Case) -> None:
    hits = case.hits if step not in case.misses else ()
    usual = normal(step, seen.role)
    expected = tuple(usual if case.result is None or call not in hits else case.result for call in EVERY)
    assert seen.results == expected, (seen.role, step)
    for call in hits:
        assert case.delay <= seen.seconds[call - 1] < case.delay + _SLACK, (seen.role, step, call)


def slow_others(seen: Worker, step: str, case: Case) -> list[float]:
    """Return the durations of calls that should not be held but took as long as a delay."""
    hits = case.hits if step not in case.misses else ()
    return [seconds for call, seconds in enumerate(seen.seconds, 1) if case.delay and call not in hits and seconds >= case.delay]


@pytest.mark.parametrize("injector", INJECTORS)
@pytest.mark.parametrize("confined", [True, False], ids=["seccomp profile", "no seccomp profile"])
def test_a_seccomp_profile_changes_nothing(confined: bool, injector: str, observers: Observers) -> None:
    observer = observers.get("dynamic", confined=confined)
    steps = ("openat", "getppid", "read", "write")
    for effect, result in (({"error": "EACCES"}, -13), ({"retval": 3000}, 3000)):
        workers, injected = observe(observer, injector, Round(steps, 50, threads=4), syscall=",".join(steps), **effect)
        assert [worker.tally for worker in workers] == [{result: 200}] * 5
        assert injected == dict.fromkeys(steps, 250)


NEEDED = (
    *("execve", "brk", "access", "openat", "newfstatat", "close", "mmap", "munmap", "mprotect", "pread64", "arch_prctl", "rseq"),
    *("set_tid_address", "set_robust_list", "prlimit64", "getrandom", "rt_sigaction", "rt_sigprocmask", "rt_sigtimedwait", "futex"),
    *("rt_sigreturn", "clone", "clone3", "madvise", "wait4", "exit", "exit_group", "getppid", "read", "write"),
    # runc, which is written in Go, needs these at the end
    *(
        "capget",
        "capset",
        "prctl",
        "fstat",
        "statx",
        "fstatfs",
        "fcntl",
        "getdents64",
        "readlinkat",
        "openat2",
        "close_range",
        "poll",
    ),
    *(
        "epoll_create1",
        "epoll_ctl",
        "epoll_pwait",
        "eventfd2",
        "pipe2",
        "nanosleep",
        "sched_yield",
        "sigaltstack",
        "getpid",
        "gettid",
    ),
    *("tgkill", "chdir", "setuid", "setgid", "setgroups", "lseek", "ioctl"),
)
KILLS = json.dumps(
    {
        "defaultAction": "SCMP_ACT_KILL_PROCESS",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": NEEDED, "action": "SCMP_ACT_ALLOW"}],
    }
)
"""A seccomp profile that allows what the observer needs to start and run, and kills a process that makes any other call."""


@pytest.mark.parametrize(
    ("injector", "effect", "result"),
    [
        ("uprobe", {"error": "EACCES"}, -13),
        ("uprobe", {"signal": "SIGUSR2", "delay_exit": "1ms"}, 0),
        ("uprobe", {"error": "EACCES", "signal": "SIGUSR2"}, -13),
        ("ptrace", {"delay_enter": "1ms"}, 0),
        ("ptrace", {"error": "EACCES"}, -13),
    ],
)
def test_a_seccomp_profile_that_kills_does_not_kill(
    injector: str, effect: dict[str, str], result: int, observers: Observers
) -> None:
    """To the kernel a suppressed call must not look like one that the profile forbids."""
    observer = observers.get("dynamic", confined=KILLS)
    workers, injected = observe(observer, injector, Round(("getppid",), 20, threads=4), within=20, syscall="getppid", **effect)
    assert [worker.tally for worker in workers] == [{result: 20}] * 5
    assert injected == {"getppid": 100}


@pytest.mark.parametrize("injector", INJECTORS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_placebo_changes_no_result(program: str, injector: str, observers: Observers) -> None:
    steps = ("getppid", "openat", "read", "write", "clock_nanosleep", "fork")
    round_ = Round(steps, 10, threads=0 if program == "bare" else 4, children=3)
    fault: dict[str, Any] = {
        "syscall": "getppid,openat,read,write,clock_nanosleep",
        "error": "EACCES",
        "signal": "SIGUSR2",
        "placebo": True,
    }
    if injector != "uprobe":
        fault["syscall"] += ",fork*"
    workers, injected = observe(observers.get(program), injector, round_, **fault)
    for worker in workers:
        for place, step in enumerate(steps):
            assert set(worker.of(place).results) == {normal(step, worker.role)}, (worker.role, step)
        assert worker.signals == 0
    assert injected == {}


@pytest.mark.parametrize("injector", INJECTORS)
def test_the_count_is_right_while_the_fault_goes_on(injector: str, observers: Observers) -> None:
    observer = observers.get("dynamic")
    round_ = Round(("getppid", "read"), 100, threads=4, children=4)
    observer.prepare(round_)
    with fault_on(observer, injector, syscall="getppid,read", error="EIO", when="1..50") as running:
        assert faults_injected(observer.name) == 0
        observer.run()
        wait_for(lambda: faults_injected(observer.name) == 900, 2)
        assert faults_injected(observer.name, syscall="read") == 450
        assert faults_injected(observer.name, fault=running.id) == 900
        assert fault_active(observer.name) is True
    assert running.injected == {"getppid": 450, "read": 450}
    assert fault_active(observer.name) is False


@pytest.mark.parametrize("injector", INJECTORS)
def test_after_the_end_everything_is_as_before(injector: str, observers: Observers) -> None:
    """The same threads and children are checked that were under the fault."""
    observer = observers.get("dynamic")
    observer.prepare(Round(("getppid",), 0, alone=False, threads=3, children=0))
    with fault_on(observer, injector, syscall="getppid", retval=5, delay_enter="1ms"):
        observer.begin()
        wait_for(lambda: all(worker.tally[5] > 20 for worker in observer.so_far()))
    before = ended(observer)
    wait_for(lambda: all(now > then + 1000 for now, then in zip(ended(observer), before, strict=True)))
    observer.end_round()
    workers = observer.result()
    hit = sum(worker.tally[5] for worker in workers)
    assert hit == faults_injected(observer.name)
    if injector != "strace":  # calls in flight return ENOSYS when strace ends
        assert [set(worker.tally) for worker in workers] == [{0, 5}] * 3


def ended(observer: Observer) -> list[int]:
    """Return the number of calls of each thread with the usual result."""
    return [worker.tally[0] for worker in observer.so_far()]
