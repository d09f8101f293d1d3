"""One running tracer (native/tracer.c): commands go to it as lines, records come from it (native/report.h)."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import mmap
import os
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import IO, Any, cast

PROGRAM = "orca-tracer"

_RECORD = struct.Struct("=IIiiqQQII")
_CALL, _DONE, _REFUSED, ENDED, FOREIGN, LOST, EXEC = range(1, 8)
_TAKEN = struct.Struct("=Q")
_KEPT = 1024
_RING_SIZE = _TAKEN.size + _KEPT * _RECORD.size

_ENDS_WITHIN = 0.6
_HURRIED_EVERY = 0.02
_READ_WITHIN = 0.5
_PIPE_BYTES = 1 << 20


@dataclass
class Asked:
    """A command that a tracer has been given; `value` is an errno, `refused` those of threads."""

    since: float
    done: threading.Event = field(default_factory=threading.Event)
    value: int = 0
    refused: dict[int, int] = field(default_factory=dict)


class Tracer:
    """One running tracer."""

    def __init__(
        self,
        program: str,
        state_fd: int,
        on_calls: Callable[[int, int, int, int, list[int]], None],
        on_event: Callable[[int, int, int, int], None],
    ) -> None:
        """Start it. Has to be called by a thread that lives as long as the agent: that is whose death the tracer dies with.

        Arguments:
            program: the executable.
            state_fd: the memory that it shares with the other tracers of its container.
            on_calls: is told of calls that ended alike (the rule, the system call's number, its result or 0, flags, and how many
                nanoseconds each took), from a thread of this object's, as all else.
            on_event: is told of every other record but the answers to commands (its kind, id, thread and value).

        Raises:
            OSError: it could not be started.
        """
        self._on_calls = on_calls
        self._on_event = on_event
        self._read = 0
        self._serial = 0
        self._told = 0
        self.untold = 0
        """Once it has ended: calls that it had hit and not told of."""
        self._ring_fd = os.memfd_create("orca-ring", os.MFD_CLOEXEC)
        os.ftruncate(self._ring_fd, _RING_SIZE)
        self._ring = mmap.mmap(self._ring_fd, _RING_SIZE)
        self._numbers = itertools.count(1)
        self._asked: dict[int, Asked] = {}
        self._lock = threading.Lock()
        self._complaints: deque[str] = deque(maxlen=10)
        try:
            self._process = subprocess.Popen(
                [program, str(os.getpid()), str(state_fd), str(self._ring_fd)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[state_fd, self._ring_fd],
                bufsize=0,
            )
        except OSError:
            self._close_ring()
            raise
        with contextlib.suppress(OSError):  # what is larger lets it say more before it has to keep it
            fcntl.fcntl(cast(IO[bytes], self._process.stdout), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_records, self._read_complaints)]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def complaint(self) -> str:
        """The last thing that it said was wrong, empty if nothing."""
        return self._complaints[-1] if self._complaints else ""

    def ask(self, command: str) -> Asked:
        """Give it a command, without waiting for the answer."""
        number, asked = next(self._numbers), Asked(time.monotonic())
        with self._lock:
            self._asked[number] = asked
            with contextlib.suppress(BrokenPipeError, ValueError):
                cast(IO[bytes], self._process.stdin).write(f"{number} {command}\n".encode())
        self._hurry()
        return asked

    def tell(self, command: str, within: float) -> Asked | None:
        """Give it a command, and wait for the answer; None if there was none in time, or it ended."""
        asked = self.ask(command)
        return asked if self.wait_for(asked, within) else None

    def wait_for(self, asked: Asked, within: float) -> bool:
        """Wait until it has carried out a command; return whether it has."""
        end = time.monotonic() + within
        while not asked.done.wait(_HURRIED_EVERY):
            self._hurry()
            if time.monotonic() > end or not self.alive():
                return asked.done.is_set()
        return True

    def silent_for(self) -> float:
        """Seconds since it was asked the oldest thing that it has not answered, 0 if it has answered all."""
        with self._lock:
            return time.monotonic() - min((asked.since for asked in self._asked.values()), default=time.monotonic())

    def kill(self) -> None:
        """End it at once, and take what it had said and what it left. The kernel lets go of whom it traced. Idempotent."""
        self._process.kill()
        self._wait(None)
        for reader in self._readers:
            reader.join(_READ_WITHIN)
        self._take_ring()
        with contextlib.suppress(BrokenPipeError):
            cast(IO[bytes], self._process.stdin).close()

    def stop(self) -> None:
        """Wait until it has let go of all threads and ended, as it has been asked to (`detach`); it is killed if it does not."""
        # Whom it traced it has let go of soon; it may have more to say than can be read in that time.
        read, within = -1, _ENDS_WITHIN
        while self.alive() and read != self._read:
            read = self._read
            self._wait(within)
            within = _READ_WITHIN
        self.kill()

    def _wait(self, within: float | None) -> None:
        """Wait until it has ended, for so many seconds or for ever."""
        end = None if within is None else time.monotonic() + within
        while end is None or time.monotonic() < end:
            self._hurry()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_HURRIED_EVERY)
                return

    def _hurry(self) -> None:
        """Give it its share of the processors. Having given way to a thread (native/near.h), it would not come back, nor even end,
        for seconds where others keep all of them busy."""
        with contextlib.suppress(OSError):  # it has ended, or the agent may not do that: then it does not give way either
            if self._process.returncode is None and os.sched_getscheduler(self.pid) == os.SCHED_IDLE:
                os.sched_setscheduler(self.pid, os.SCHED_OTHER, os.sched_param(0))

    def _read_records(self) -> None:
        with cast(IO[bytes], self._process.stdout) as records:
            left = b""
            while data := records.read(_RECORD.size * 4096):
                data = left + data
                whole = len(data) - len(data) % _RECORD.size
                left = data[whole:]
                self._take(_RECORD.iter_unpack(data[:whole]))
                self._read += 1

    def _take_ring(self) -> None:
        if self._ring.closed:
            return
        (taken,) = _TAKEN.unpack_from(self._ring)
        left = [record for record in _RECORD.iter_unpack(self._ring[_TAKEN.size :]) if record[-1] > self._serial]
        self._take(sorted(left, key=lambda record: int(record[-1])))
        self.untold = max(0, taken - self._told)
        self._close_ring()

    def _close_ring(self) -> None:
        self._ring.close()
        os.close(self._ring_fd)

    def _take(self, records: Iterable[tuple[Any, ...]]) -> None:
        """Take records in their order. There may be a hundred thousand calls a second: those that ended alike are added up."""
        alike: dict[tuple[int, int, int, int], list[int]] = {}
        for kind, number, thread, nr, value, took, _held, flags, serial in records:
            if kind == _CALL:
                self._told += 1
                self._serial = serial
                alike.setdefault((number, nr, min(value, 0), flags), []).append(took)
                continue
            self._tell(alike)
            alike = {}
            if kind in (_DONE, _REFUSED):
                self._answer(kind, number, thread, value)
            else:
                self._on_event(kind, number, thread, value)
        self._tell(alike)

    def _tell(self, alike: dict[tuple[int, int, int, int], list[int]]) -> None:
        for (key, nr, value, flags), took in alike.items():
            self._on_calls(key, nr, value, flags, took)

    def _answer(self, kind: int, number: int, thread: int, value: int) -> None:
        with self._lock:
            asked = self._asked.get(number) if kind == _REFUSED else self._asked.pop(number, None)
        if asked and kind == _REFUSED:
            asked.refused[thread] = value
        elif asked:
            asked.value = value
            asked.done.set()

    def _read_complaints(self) -> None:
        with cast(IO[bytes], self._process.stderr) as lines:
            for line in lines:
                self._complaints.append(line.decode(errors="replace").strip())
