"""Faults of every kind. Each has the calls that it hits and the effects that a program sees."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

REPEATS = 10
EVERY = tuple(range(1, REPEATS + 1))


@dataclass(frozen=True)
class Case:
    """A fault, and its expected effect.

    Attributes:
        steps: the system calls that each worker makes, one after the other.
        fault: the fault.
        hits: which of the ten calls of each worker are hit.
        result: the result of the hit calls; None for the same result as without a fault.
        delay: how many seconds the hit calls are held.
        signals: how many signals arrive with each hit call.
        misses: steps that the fault does not target.
        early: whether threads and children exist before the fault begins.
        threads: the number of threads, in programs with a libc.
    """

    steps: tuple[str, ...]
    fault: dict[str, Any]
    hits: tuple[int, ...] = EVERY
    result: int | None = None
    delay: float = 0
    signals: int = 0
    misses: tuple[str, ...] = field(default=())
    early: bool = False
    threads: int = 4


def on(syscall: str, **fault: Any) -> dict[str, Any]:
    return {"syscall": syscall, **fault}


CASES = {
    # errors, with each form of `when`
    "error": Case(("openat",), on("openat", error="EACCES"), result=-13),
    "error early": Case(("openat",), on("openat", error="EACCES"), result=-13, early=True),
    "error when F": Case(("write",), on("write", error="ENOSPC", when="3"), (3,), -28),
    "error when F+": Case(("read",), on("read", error="EIO", when="3+"), (3, 4, 5, 6, 7, 8, 9, 10), -5),
    "error when F+S": Case(("fstat",), on("fstat", error="EBADF", when="1+3"), (1, 4, 7, 10), -9),
    "error when F..L": Case(("getppid",), on("getppid", error="EINVAL", when="2..4"), (2, 3, 4), -22, early=True),
    "error when F..L+S": Case(("lseek",), on("lseek", error="ESPIPE", when="2..9+2"), (2, 4, 6, 8), -29),
    "error when beyond": Case(("dup",), on("dup", error="EMFILE", when="9..99+4"), (9,), -24, early=True),
    "error when never": Case(("openat",), on("openat", error="EACCES", when="11"), ()),
    "error EINTR": Case(("read",), on("read", error="EINTR", when="1+2"), (1, 3, 5, 7, 9), -4),
    "error ENOSYS": Case(("getrandom",), on("getrandom", error="ENOSYS", when="2"), (2,), -38),
    "error of the highest number": Case(("statx",), on("statx", error="EHWPOISON"), result=-133),
    # forged results
    "retval": Case(("getppid",), on("getppid", retval=4711, when="2+2"), (2, 4, 6, 8, 10), 4711),
    "retval 0": Case(("read",), on("read", retval=0), result=0),
    "retval short": Case(("write",), on("write", retval="7", when="1..5"), (1, 2, 3, 4, 5), 7, early=True),
    "retval of 41 bits": Case(("lseek",), on("lseek", retval=2**40 + 5, when="10"), (10,), 2**40 + 5),
    "retval for a descriptor": Case(("openat",), on("openat", retval=4711, when="5+"), (5, 6, 7, 8, 9, 10), 4711),
    # signals
    "signal": Case(("getppid",), on("getppid", signal="SIGUSR2"), signals=1),
    "signal when": Case(("openat",), on("openat", signal="ALRM", when="2+3"), (2, 5, 8), signals=1, early=True),
    "signal interrupts": Case(
        ("clock_nanosleep",), on("clock_nanosleep", signal="SIGWINCH", when="1+3"), (1, 4, 7, 10), -4, signals=1
    ),
    # delays
    "delay_enter": Case(("getppid",), on("getppid", delay_enter="20ms", when="2..4"), (2, 3, 4), delay=0.02),
    "delay_exit": Case(("read",), on("read", delay_exit="20ms", when="1+4"), (1, 5, 9), delay=0.02, early=True),
    "both delays": Case(("write",), on("write", delay_enter="15ms", delay_exit="15ms", when="3..9+3"), (3, 6, 9), delay=0.03),
    # several effects
    "error and delay_enter": Case(("openat",), on("openat", error="EACCES", delay_enter="20ms", when="2"), (2,), -13, delay=0.02),
    "error and delay_exit": Case(
        ("getppid",), on("getppid", error="EIO", delay_exit="20ms", when="1+5"), (1, 6), -5, delay=0.02, early=True
    ),
    "retval and both delays": Case(
        ("read",), on("read", retval=1, delay_enter="10ms", delay_exit="15ms", when="4..5"), (4, 5), 1, delay=0.025
    ),
    "error and signal": Case(("write",), on("write", error="EPIPE", signal="SIGUSR2", when="2+4"), (2, 6, 10), -32, signals=1),
    "retval and signal": Case(("getppid",), on("getppid", retval=99, signal="SIGURG"), result=99, signals=1, early=True),
    "signal and delay_enter": Case(
        ("getppid",), on("getppid", signal="SIGIO", delay_enter="20ms", when="3"), (3,), delay=0.02, signals=1
    ),
    "everything": Case(
        ("openat",),
        on("openat", error="ENOENT", signal="SIGHUP", delay_enter="10ms", delay_exit="10ms", when="9+"),
        (9, 10),
        -2,
        delay=0.02,
        signals=1,
    ),
    # several system calls, counted separately
    "two system calls": Case(
        ("openat", "getppid", "read"), on("openat,read", error="EIO", when="2+2"), (2, 4, 6, 8, 10), -5, misses=("getppid",)
    ),
    "a family": Case(
        ("openat", "open", "openat2", "creat", "read"), on("open*", error="EROFS", when="1..3"), (1, 2, 3), -30, misses=("read",)
    ),
    "a class": Case(
        ("openat", "getppid", "mkdirat", "statx", "write"),
        on("%file", error="EROFS", when="4"),
        (4,),
        -30,
        misses=("getppid", "write"),
        early=True,
    ),
    "sockets": Case(("socket", "read"), on("%network", error="EAFNOSUPPORT"), result=-97, misses=("read",)),
    "memory": Case(("mmap",), on("mmap", error="ENOMEM", when="2+2"), (2, 4, 6, 8, 10), -12, early=True),
    # This case has no threads. The SIGCHLD of one thread's child would restart the clone of another thread, as a further call.
    "children": Case(("fork",), on("fork*", error="EAGAIN", when="2+3"), (2, 5, 8), -11, early=True, threads=0),
}
