"""A program that times its own system calls (images/calls/calls.c)."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import statistics
import struct
import tempfile
from collections.abc import Iterator
from typing import Any

from docker.models.containers import Container

from benchmarks.parts.machine import Machine, until


class Calls:
    """The running program; calls.c defines the layout of the board, a file that both sides map."""

    _FIELDS = ("asked", "done", "stop", "how", "batch", "batches", "milliseconds", "threads", "pause")
    _SEEN = ("calls", "errors", "first_error", "last_error", "recorded")
    _HEAD = struct.Struct(f"{len(_FIELDS) + len(_SEEN)}q")
    _MOST = 65536

    def __init__(self, board: mmap.mmap, container: Container) -> None:
        self._board, self.container = board, container
        self.run(batches=1)

    def begin(
        self, batch: int = 1, batches: int = _MOST, seconds: float = 60, threads: int = 1, pause: int = 0, how: int = 0
    ) -> None:
        """Begin a round, which ends after its batches or its time.

        Arguments:
            batch: how many calls are timed as one.
            batches: how many batches each thread makes at most.
            seconds: how long the round takes at most.
            threads: how many threads make calls.
            pause: microseconds between batches.
            how: 0: getppid; 1: getppid by the libc's `syscall`; 2: poll; 3: poll of a program that has had a second thread, which
                it keeps.
        """
        asked = self._now()["asked"]
        values = (asked, asked, 0, how, batch, batches, round(seconds * 1000), threads, pause, *[0] * len(self._SEEN))
        self._HEAD.pack_into(self._board, 0, *values)
        struct.pack_into("q", self._board, 0, asked + 1)

    def end(self) -> dict[str, int]:
        """End the round early; return its result."""
        struct.pack_into("q", self._board, 16, 1)
        return self.result()

    def result(self) -> dict[str, int]:
        """Wait for the end of the round; return the fields of the board."""
        until(lambda: self._now()["done"] == self._now()["asked"], 120)
        return self._now()

    def run(self, **round_: Any) -> dict[str, int]:
        """Make a round; return its result."""
        self.begin(**round_)
        return self.result()

    def nanoseconds(self) -> float:
        """Return the duration of one call of the last round: the median of its batches."""
        now = self._now()
        return statistics.median(struct.unpack_from(f"{now['recorded']}q", self._board, self._HEAD.size)) / now["batch"]

    def so_far(self) -> dict[str, int]:
        """Return the fields of the board now."""
        return self._now()

    def _now(self) -> dict[str, int]:
        return dict(zip(self._FIELDS + self._SEEN, self._HEAD.unpack_from(self._board), strict=True))

    @classmethod
    def size(cls) -> int:
        """Return the size of the board in bytes."""
        return cls._HEAD.size + cls._MOST * 8


@contextlib.contextmanager
def calls_program(machine: Machine) -> Iterator[Calls]:
    """Run the program in a container."""
    directory = tempfile.mkdtemp(prefix="chaosorca-bench-")
    try:
        with open(f"{directory}/board", "w+b") as file:
            os.truncate(file.fileno(), Calls.size())
            board = mmap.mmap(file.fileno(), Calls.size())
        with machine.container("calls", volumes={directory: {"bind": "/board", "mode": "rw"}}) as container:
            yield Calls(board, container)
    finally:
        shutil.rmtree(directory)
