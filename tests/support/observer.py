"""A container whose program records the results of its own system calls (see inside/), and faults on this container.

The program and the test map the same file, the board (inside/board.h). So they communicate without system calls, which a fault
could hit. The counts therefore contain exactly the calls of a round.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

from chaosorca.actions.faults import start_fault, stop_fault
from chaosorca.model.fault import parse_fault
from chaosorca.model.injectors import strace_cannot, uprobe_cannot
from tests.support.project import ROOT
from tests.support.waiting import wait_for
from tests.support.web import tracers_of

INJECTORS = ("strace", "ptrace", "uprobe")
PROGRAMS = ("dynamic", "static", "musl", "bare")
"""The programs are linked with glibc (dynamically or statically), with musl, or without a libc. `bare` has no threads."""

REAL = 1
"""The recorded result of a step that returned a descriptor, a process or memory."""

NORMAL = {
    **dict.fromkeys(("openat", "openat2", "open", "creat", "dup", "socket", "mmap", "fork", "vfork"), REAL),
    **dict.fromkeys(("read", "pread64", "readv", "write", "writev", "getrandom"), 64),
    "mkdirat": -17,
    "unlinkat": -2,
    "execve": -2,
    "readlinkat": -22,
    "getpriority": 20,
}
"""The recorded results of steps without a fault, unless they are 0. `getppid` is 0 in the first process and 1 in its children."""

_SIZE, _WORKERS_AT, _WORKER_HEAD, _STEPS = 64 << 20, 16384, 512, 48
_HEADER, _TEXTS, _STEP = struct.Struct("4i"), struct.Struct("10i128s64s64s"), struct.Struct("24s104s128s")
_WORKER = struct.Struct("4q48q")
_READY = -1
_CHUNK = b"\0" * (1 << 20)


@dataclass(frozen=True)
class Step:
    """A system call that each worker makes again and again.

    Attributes:
        name: the system call.
        file: the file whose descriptor the call gets. The file is opened before the fault begins. `path` is relative to it.
        path: the path that the call gets.
    """

    name: str
    file: str = ""
    path: str = ""


@dataclass(frozen=True)
class Round:
    """The calls that the workers make.

    Attributes:
        steps: the system calls, one after the other.
        repeats: how often each worker repeats all steps; 0 to repeat them until `Observer.end_round`.
        alone: whether the first process makes the calls, before all other workers.
        threads: how many threads of the first process make the calls.
        children: how many forked children make the calls, after all other workers.
        early: whether threads and children exist before the fault begins.
        recorded: how many calls of each worker are recorded one by one; None for all calls.
        pause: seconds between the forks.
        directory: the working directory.
        become: the texts for even and odd children. Each child executes itself with its text in the command line, and
            repeats the calls.
    """

    steps: Sequence[Step | str]
    repeats: int = 1
    alone: bool = True
    threads: int = 0
    children: int = 0
    early: bool = False
    recorded: int | None = None
    pause: float = 0
    directory: str = ""
    become: tuple[str, str] = ("", "")

    @property
    def roles(self) -> list[str]:
        """The role of each worker."""
        executed = self.children if any(self.become) else 0
        return ["alone"] * self.alone + ["thread"] * self.threads + ["child"] * self.children + ["executed"] * executed


@dataclass(frozen=True)
class Worker:
    """The records of one thread.

    Attributes:
        role: `alone` (the first process's first thread), `thread`, `child`, or `executed`.
        calls: the number of the thread's calls.
        signals: the number of signals that the thread's handler counted.
        tally: the number of calls by result; -errno for failed calls.
        results, seconds: the results and durations of the recorded calls, in order.
        steps: the number of steps in each repeat.
    """

    role: str
    calls: int
    signals: int
    tally: Counter[int]
    results: tuple[int, ...] = field(repr=False)
    seconds: tuple[float, ...] = field(repr=False)
    steps: int = 1

    def of(self, step: int) -> Worker:
        """Return the records of one step, which is given by its place."""
        results = self.results[step :: self.steps]
        seconds = self.seconds[step :: self.steps]
        return Worker(self.role, len(results), self.signals, Counter(results), results, seconds)


class Observer:
    """A running container of the observer's image."""

    def __init__(self, client: docker.DockerClient, image: str, program: str, text: str = "", **options: Any) -> None:
        """
        Arguments:
            client, image: the engine and the image.
            program: one of `PROGRAMS`.
            text: a text for the program's command line.
            options: further options of `docker run`.
        """
        self.program = program
        self.directory = Path(tempfile.mkdtemp(prefix="orca-board-"))
        (self.directory / "board").touch()
        os.truncate(self.directory / "board", _SIZE)
        with open(self.directory / "board", "r+b") as file:
            self._board = mmap.mmap(file.fileno(), _SIZE)
        self._number, self._used, self._round = 0, 0, Round([])
        self.container: Container = client.containers.run(
            image,
            [f"/observer/{program}", "/board/board", *([text] if text else [])],
            name=f"orca-inside-{program}-{time.monotonic_ns() % 10**9}",
            volumes={str(self.directory): {"bind": "/board", "mode": "rw"}},
            detach=True,
            **options,
        )
        # The program would miss the signal that begins a round if it came earlier.
        self._wait(lambda: self._state()[2] == _READY, 10)

    @property
    def name(self) -> str:
        """The container's name."""
        return str(self.container.name)

    @property
    def idle(self) -> bool:
        """Whether the observer waits for a round."""
        return self._state()[1] == self._number

    def remove(self) -> None:
        """Remove the container and its board."""
        self.container.remove(force=True, v=True)
        self._board.close()
        shutil.rmtree(self.directory)

    def prepare(self, round_: Round) -> None:
        """Let the program prepare a round before the fault begins."""
        assert self.idle, "the previous round is not over"
        steps = [step if isinstance(step, Step) else Step(step) for step in round_.steps]
        recorded = round_.repeats * len(steps) if round_.recorded is None else round_.recorded
        self._clear(_WORKERS_AT, self._used)
        self._number, self._round = self._number + 1, round_
        self._length = _WORKER_HEAD + recorded * 16
        self._used = len(round_.roles) * self._length
        assert len(steps) <= _STEPS and _WORKERS_AT + self._used <= _SIZE, "the round does not fit on the board"
        _TEXTS.pack_into(
            self._board,
            _HEADER.size,
            *(self._number, 0, round_.alone, round_.threads, round_.children, round_.early),
            *(len(steps), round_.repeats, recorded, round(round_.pause * 1e6)),
            round_.directory.encode(),
            *(text.encode() for text in round_.become),
        )
        for place, step in enumerate(steps):
            at = _HEADER.size + _TEXTS.size + place * _STEP.size
            _STEP.pack_into(self._board, at, step.name.encode(), step.file.encode(), step.path.encode())
        self._signal()
        self._wait(lambda: self._state()[0] == self._number, 10)

    def begin(self) -> None:
        """Begin the round."""
        self._signal()

    def end_round(self) -> None:
        """End a round whose `repeats` is 0."""
        struct.pack_into("i", self._board, _HEADER.size + 4, 1)

    def result(self, within: float = 60) -> list[Worker]:
        """Wait for the end of the round, and return what the workers recorded."""
        self._wait(lambda: self.idle, within)
        return self.so_far()

    def run(self, within: float = 60) -> list[Worker]:
        """Run the round, and return what the workers recorded."""
        self.begin()
        return self.result(within)

    def so_far(self) -> list[Worker]:
        """Return what the workers have recorded so far."""
        return [self._worker(place, role) for place, role in enumerate(self._round.roles)]

    def strays(self) -> int:
        """Return how many signals have arrived between two calls since the start of the container."""
        return self._state()[3]

    def tracers(self) -> set[int]:
        """Return the ids of the processes that trace the container's threads. Return {0} if there are none."""
        return tracers_of(self.container)

    def _worker(self, place: int, role: str) -> Worker:
        at = _WORKERS_AT + place * self._length
        calls, signals, _pid, _ended, *tally = _WORKER.unpack_from(self._board, at)
        recorded = min(calls, (self._length - _WORKER_HEAD) // 16)
        numbers = array("q", self._board[at + _WORKER_HEAD : at + _WORKER_HEAD + recorded * 16])
        times = Counter({result: count for result, count in zip(tally[::2], tally[1::2], strict=True) if count})
        results, seconds = tuple(numbers[::2]), tuple(nanoseconds / 1e9 for nanoseconds in numbers[1::2])
        return Worker(role, calls, signals, times, results, seconds, len(self._round.steps))

    def _state(self) -> tuple[int, int, int, int]:
        prepared, done, turn, strays = _HEADER.unpack_from(self._board)
        return prepared, done, turn, strays

    def _clear(self, at: int, length: int) -> None:
        for begin in range(at, at + length, len(_CHUNK)):
            end = min(begin + len(_CHUNK), at + length)
            self._board[begin:end] = _CHUNK[: end - begin]

    def _signal(self) -> None:
        self.container.kill("SIGUSR1")

    def _wait(self, condition: Callable[[], bool], within: float) -> None:
        try:
            wait_for(condition, within)
        except AssertionError:
            self.container.reload()
            state = self.container.attrs["State"]
            said = self.container.logs(tail=5).decode(errors="replace").strip()
            raise AssertionError(
                f"round {self._number} of {self.program} is at {self._state()} after {within} s, {self._round}; "
                f"container: {state['Status']} ({state['ExitCode']}), {said or 'no output'}; so far: {self.so_far()[:8]}"
            ) from None


class Observers:
    """The observers of a module's tests. Each observer is started on its first use."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client
        self._running: dict[tuple[str, str, bool | str], Observer] = {}
        self._image = "chaosorca-test-inside"
        client.images.build(path=str(ROOT / "tests" / "integration" / "inside"), tag=self._image, rm=True)

    def get(self, program: str, text: str = "", confined: bool | str = True) -> Observer:
        """Return an observer that waits for a round.

        Arguments:
            program: one of `PROGRAMS`.
            text: a text for the program's command line.
            confined: True for Docker's own seccomp profile, False for none, or the JSON text of another profile. The
                kernel applies a profile after a tracer has seen the call.
        """
        key = (program, text, confined)
        observer = self._running.get(key)
        if observer is not None and not observer.idle:  # a test failed in the middle of a round
            self._running.pop(key).remove()
            observer = None
        if observer is None:
            profile = confined or "unconfined"
            options = {} if profile is True else {"security_opt": ["no-new-privileges", f"seccomp={profile}"]}
            observer = self._running[key] = Observer(self._client, self._image, program, text, **options)
        return observer

    def remove(self) -> None:
        """Remove all observers."""
        for observer in self._running.values():
            observer.remove()


@dataclass
class Started:
    """A fault in force, and its record after its end."""

    id: str
    stopped: dict[str, Any] = field(default_factory=dict)

    @property
    def injected(self) -> dict[str, int]:
        """The number of injected calls by system call."""
        return dict(self.stopped["injected"])


@contextmanager
def fault_on(observer: Observer, injector: str, **fault: Any) -> Iterator[Started]:
    """Start a fault on an observer. Stop the fault at the end, even after an error."""
    started = start_fault(container=observer.name, injector=injector, **fault)
    try:
        assert started["injector"] == injector
        assert started["containers"][0]["not_attached"] == []
        running = Started(started["fault"])
        yield running
    finally:
        stopped = stop_fault(container=observer.name)["stopped"]
    (running.stopped,) = [one for one in stopped if one["fault"] == running.id]
    assert observer.tracers() == {0}


def observe(
    observer: Observer, injector: str, round_: Round, within: float = 60, **fault: Any
) -> tuple[list[Worker], dict[str, int]]:
    """Run a round under a fault.

    Returns:
        what the workers recorded, and the number of injected calls by system call.
    """
    observer.prepare(round_)
    with fault_on(observer, injector, **fault) as running:
        workers = observer.run(within)
    return workers, running.injected


def can(injector: str, fault: dict[str, Any]) -> bool:
    """Return whether an injector supports a fault."""
    parsed = parse_fault("x86_64", **fault)
    return not (
        strace_cannot(parsed, "x86_64") if injector == "strace" else injector == "uprobe" and uprobe_cannot(parsed, "x86_64")
    )


def normal(step: str, role: str) -> int:
    """Return the result that a worker with this role records for a step without a fault."""
    if step == "getppid":
        return 1 if role in ("child", "executed") else 0
    return NORMAL.get(step, 0)
