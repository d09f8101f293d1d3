"""All three injectors have the same effect: a program sees the same under uprobe and ptrace as under strace.

A run tries three of five of the listed faults and of some random ones, each on one of the programs. The seed decides which: it is
CHAOSORCA_SEED, or the number of the day. Twenty consecutive days try each listed fault on each program. CHAOSORCA_FULL=1 tries all
faults on all programs.
"""

from __future__ import annotations

import os
import random
import time
from typing import Any

import pytest

from tests.support.observer import (
    INJECTORS,
    PROGRAMS,
    Observer,
    Observers,
    Round,
    Worker,
    can,
    observe,
)

pytestmark = pytest.mark.usefixtures("one_agent_for_all")


REPEATS = 8
MORE_TRIES = 3
SEED = int(os.environ.get("CHAOSORCA_SEED", time.time() // 86400))
RANDOM_FAULTS = 16
DELAY, DELAY_SECONDS = "20ms", 0.02

FILES = (
    *("openat", "open", "openat2", "creat", "stat", "lstat", "newfstatat", "statx", "readlinkat", "faccessat", "mkdirat"),
    *("unlinkat", "chdir", "execve"),
)
DATA = ("read", "pread64", "readv", "write", "writev", "lseek", "dup", "fcntl", "fstat")
OTHERS = ("getppid", "socket", "mmap", "sched_yield", "clock_nanosleep", "ppoll", "getrandom", "getpriority")
FORKS = ("fork", "getppid")
"""Never from several threads at once: a SIGCHLD from one thread's child restarts another thread's clone, one more call."""

# strace 6.1 drops the signal of a call that it has held at its entry, and refuses F..65535. So no fault has these.
FAULTS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    # errors, and each form of `when`
    (FILES, {"syscall": "openat", "error": "EACCES"}),
    (FILES, {"syscall": "openat", "error": "ENOENT", "when": "1"}),
    (FILES, {"syscall": "openat", "error": "EMFILE", "when": "3"}),
    (FILES, {"syscall": "newfstatat", "error": "ENOTDIR", "when": "8"}),
    (FILES, {"syscall": "unlinkat", "error": "EBUSY", "when": "9"}),
    (DATA, {"syscall": "write", "error": "ENOSPC", "when": "2+"}),
    (DATA, {"syscall": "read", "error": "EIO", "when": "8+"}),
    (DATA, {"syscall": "lseek", "error": "ESPIPE", "when": "1+2"}),
    (DATA, {"syscall": "fstat", "error": "EBADF", "when": "3+4"}),
    (DATA, {"syscall": "dup", "error": "EMFILE", "when": "2..5"}),
    (DATA, {"syscall": "fcntl", "error": "EINVAL", "when": "4..4"}),
    (OTHERS, {"syscall": "getppid", "error": "ESRCH", "when": "2..7+3"}),
    (OTHERS, {"syscall": "getrandom", "error": "EAGAIN", "when": "1..65534+65535"}),
    (OTHERS, {"syscall": "socket", "error": "EAFNOSUPPORT", "when": "65535"}),
    (OTHERS, {"syscall": "mmap", "error": "ENOMEM", "when": "1+3"}),
    (OTHERS, {"syscall": "clock_nanosleep", "error": "EINTR", "when": "2+2"}),
    (OTHERS, {"syscall": "ppoll", "error": "ENOSYS"}),
    (OTHERS, {"syscall": "sched_yield", "error": "EHWPOISON"}),
    (FILES, {"syscall": "execve", "error": "EACCES", "when": "3+"}),
    # forged results
    (OTHERS, {"syscall": "getppid", "retval": 4711}),
    (OTHERS, {"syscall": "getpriority", "retval": 0, "when": "2+2"}),
    (DATA, {"syscall": "read", "retval": 0, "when": "3+"}),
    (DATA, {"syscall": "write", "retval": 1, "when": "1..4"}),
    (DATA, {"syscall": "lseek", "retval": 2**40, "when": "5"}),
    (FILES, {"syscall": "openat", "retval": 4711, "when": "2"}),
    (FILES, {"syscall": "mkdirat", "retval": 0}),
    # signals
    (OTHERS, {"syscall": "getppid", "signal": "SIGUSR2"}),
    (OTHERS, {"syscall": "clock_nanosleep", "signal": "SIGALRM", "when": "1+3"}),
    (OTHERS, {"syscall": "ppoll", "signal": "SIGURG", "when": "2"}),
    (DATA, {"syscall": "read,write", "signal": "SIGIO", "when": "3..6+3"}),
    (FILES, {"syscall": "openat", "signal": "SIGWINCH", "when": "2+"}),
    # delays
    (DATA, {"syscall": "read", "delay_enter": DELAY, "when": "2..3"}),
    (DATA, {"syscall": "write", "delay_exit": DELAY, "when": "8"}),
    (OTHERS, {"syscall": "getppid", "delay_enter": "10ms", "delay_exit": "10ms", "when": "1+4"}),
    (OTHERS, {"syscall": "getppid,getrandom", "delay_enter": DELAY, "when": "3"}),
    # several effects
    (FILES, {"syscall": "openat", "error": "EACCES", "delay_enter": DELAY, "when": "2"}),
    (FILES, {"syscall": "statx", "error": "EIO", "delay_exit": DELAY, "when": "1+7"}),
    (DATA, {"syscall": "pread64", "retval": 3, "delay_exit": DELAY, "when": "4"}),
    (DATA, {"syscall": "writev", "error": "EPIPE", "signal": "SIGHUP", "when": "2+3"}),
    (DATA, {"syscall": "readv", "retval": 9, "signal": "SIGUSR2"}),
    (OTHERS, {"syscall": "getppid", "signal": "SIGUSR2", "delay_exit": DELAY, "when": "5..6"}),
    (OTHERS, {"syscall": "socket", "error": "ENFILE", "signal": "SIGIO", "delay_exit": DELAY, "when": "7+"}),
    # several calls, families and classes
    (FILES, {"syscall": "openat,statx,chdir", "error": "ELOOP", "when": "2+2"}),
    (FILES, {"syscall": "open*", "error": "EROFS", "when": "3+"}),
    (FILES, {"syscall": "stat*", "error": "EOVERFLOW", "when": "1+2"}),
    (FILES, {"syscall": "%file", "error": "ENAMETOOLONG", "when": "2..6+2"}),
    (FILES, {"syscall": "%file", "signal": "SIGURG", "when": "4"}),
    (FILES, {"syscall": "%file", "delay_enter": DELAY, "when": "5"}),
    (DATA, {"syscall": "read*", "retval": 5, "when": "3+"}),
    (DATA, {"syscall": "write*", "error": "EFBIG"}),
    (OTHERS, {"syscall": "%network", "error": "EACCES", "when": "1..2"}),
    (FORKS, {"syscall": "fork*", "error": "EAGAIN", "when": "2+2"}),
    (FORKS, {"syscall": "fork*", "delay_exit": DELAY, "when": "3"}),
    (FORKS, {"syscall": "getppid,fork*", "error": "ENOMEM", "when": "4..5"}),
    # no effect
    (DATA, {"syscall": "%desc", "error": "EBADF", "placebo": True}),
    (FORKS, {"syscall": "fork*", "error": "EAGAIN", "placebo": True}),
]


def random_faults(seed: int, number: int) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Return random faults that strace supports, the same for the same seed."""
    draw = random.Random(seed)
    return [_random_fault(draw) for _ in range(number)]


def _random_fault(draw: random.Random) -> tuple[tuple[str, ...], dict[str, Any]]:
    steps = tuple(draw.sample(FILES + DATA + OTHERS, 6))
    names = draw.choice([draw.sample(steps, draw.randint(1, 4)), ["open*"], ["stat*", "read*"], ["%file"], ["%network", "write*"]])
    effects = draw.choice(["result", "signal", "delay", "result signal", "result delay", "signal delay", "result signal delay"])
    fault: dict[str, Any] = {"syscall": ",".join(names)}
    if "result" in effects and draw.random() < 0.5:
        # Not EPERM: getppid never fails, so a libc may return it as process -1.
        fault["error"] = draw.choice(["EACCES", "EIO", "EINTR", "ENOMEM", "ENOSYS", "EAGAIN", "ENOSPC", "ETIMEDOUT", "EHWPOISON"])
    elif "result" in effects:
        fault["retval"] = draw.choice([0, 1, 7, 4711, 2**31 - 1])
    if "signal" in effects:
        fault["signal"] = draw.choice(["SIGUSR2", "SIGALRM", "SIGWINCH", "SIGURG", "SIGIO", "SIGHUP"])
    if "delay" in effects:
        where = ["delay_exit"] if "signal" in effects else ["delay_enter", "delay_exit"]
        fault[draw.choice(where)] = DELAY
    first, more, step = draw.randint(1, REPEATS), draw.randint(0, REPEATS), draw.randint(1, 4)
    forms = [f"{first}", f"{first}..{first + more % 2}"]
    if "delay" not in effects:
        forms += ["", f"{first}+", f"{first}+{step}", f"{first}..{first + more}", f"{first}..{first + more}+{step}"]
    when = draw.choice(forms)
    return steps, {**fault, **({"when": when} if when else {})}


def written(fault: dict[str, Any]) -> str:
    return ":".join(str(value) if name == "syscall" else f"{name}={value}" for name, value in fault.items())


def chosen() -> list[Any]:
    """Return each fault with its program, or with all of them."""
    found = []
    drawn = random_faults(SEED, RANDOM_FAULTS)
    is_full = os.environ.get("CHAOSORCA_FULL") == "1"
    for number, (steps, fault) in enumerate(FAULTS + drawn):
        turn = number + SEED
        if turn % 5 > 2 and not is_full:
            continue
        programs = PROGRAMS if is_full else [PROGRAMS[turn % len(PROGRAMS)]]
        origin = f"seed {SEED}, {number - len(FAULTS)}: " if number >= len(FAULTS) else ""
        found += [pytest.param(program, steps, fault, id=f"{origin}{written(fault)} on {program}") for program in programs]
    return found


@pytest.mark.parametrize(("program", "steps", "fault"), chosen())
def test_all_injectors_do_the_same(program: str, steps: tuple[str, ...], fault: dict[str, Any], observers: Observers) -> None:
    print(f"seed {SEED}")  # noqa: T201
    judge, *others = INJECTORS
    expected = seen_under(observers.get(program), judge, steps, fault)
    for other in (one for one in others if can(one, fault)):
        actual = seen_under(observers.get(program), other, steps, fault)
        for tried in range(MORE_TRIES):
            if actual == expected or (actual[:-1] != expected[:-1] and ("signal" not in fault or tried)):
                break
            # Only the durations differ: the machine itself may have delayed a call. Or a wait of a millisecond was over before
            # the signal that should interrupt it.
            expected = seen_under(observers.get(program), judge, steps, fault)
            actual = seen_under(observers.get(program), other, steps, fault)
        assert actual == expected, f"{other} (seed {SEED})"


def seen_under(observer: Observer, injector: str, steps: tuple[str, ...], fault: dict[str, Any]) -> tuple[Any, ...]:
    """Return everything that a round shows: the counts, what each thread saw, and how many calls of each took long."""
    threads = 0 if observer.program == "bare" or "fork" in steps else 3
    strays = observer.strays()
    round_ = Round(steps, REPEATS, threads=threads, children=3, early=True)
    workers, injected = observe(observer, injector, round_, **fault)
    seen = sorted((worker.role, worker.results, worker.signals) for worker in workers)
    return injected, observer.strays() - strays, seen, sorted(slow_calls(worker) for worker in workers)


def slow_calls(worker: Worker) -> tuple[str, int]:
    return worker.role, sum(seconds >= DELAY_SECONDS for seconds in worker.seconds)
