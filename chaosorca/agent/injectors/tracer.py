"""One native tracer (native/tracer.c): the agent writes commands to it as lines, and reads its records (native/report.h)."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
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

from chaosorca.agent import timeouts
from chaosorca.agent.injectors.records import CALL, DONE, RECORD, REFUSED

PROGRAM = "orca-tracer"

_TAKEN = struct.Struct("=Q")
_KEPT = 1024
_RING_SIZE = _TAKEN.size + _KEPT * RECORD.size  # struct ring
_PIPE_BYTES = 1 << 20
_TRACE = "trace: "
_log = logging.getLogger("chaosorca.agent.tracer")


@dataclass
class Command:
    """A command that was sent to a tracer.

    Attributes:
        sent: the monotonic clock then, in seconds.
        done: set when the tracer has answered.
        error: the errno of the answer, 0 for success.
        refused: the errno of each thread that could not be attached.
    """

    sent: float
    done: threading.Event = field(default_factory=threading.Event)
    error: int = 0
    refused: dict[int, int] = field(default_factory=dict)


class Tracer:
    """One running tracer. With `CHAOSORCA_TRACE=1` in the environment it logs each of its decisions."""

    def __init__(
        self,
        program: str,
        state_fd: int,
        on_calls: Callable[[int, int, int, int, list[int]], None],
        on_event: Callable[[int, int, int, int], None],
    ) -> None:
        """Start the tracer. Call this from a thread that lives as long as the agent: the kernel kills the tracer when it ends.

        Arguments:
            program: the executable.
            state_fd: the memory that the tracers of a container share.
            on_calls: receives calls that ended alike: the rule, the system call's number, the result if it is negative and else 0,
                flags, and the nanoseconds that each took. It is called by a thread of this object, as is `on_event`.
            on_event: receives each record that is neither a call nor an answer to a command: its kind, id, thread and value.

        Raises:
            OSError: the tracer could not be started.
        """
        self._on_calls = on_calls
        self._on_event = on_event
        self._reads = 0
        self._last_serial = 0
        self._reported = 0
        self.unreported = 0
        """How many calls it had injected and not reported when it ended."""

        self._numbers = itertools.count(1)
        # Guards `_unanswered`, and keeps the lines on the tracer's standard input whole.
        self._lock = threading.Lock()
        self._unanswered: dict[int, Command] = {}
        self._errors: deque[str] = deque(maxlen=10)
        self._ring_fd = os.memfd_create("orca-ring", os.MFD_CLOEXEC)
        os.ftruncate(self._ring_fd, _RING_SIZE)
        self._ring = mmap.mmap(self._ring_fd, _RING_SIZE)
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
        with contextlib.suppress(OSError):  # a larger pipe lets the tracer write more before it has to buffer
            fcntl.fcntl(cast(IO[bytes], self._process.stdout), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_records, self._read_errors)]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    def last_error(self) -> str:
        """Return the last line that the tracer wrote to standard error, empty if none."""
        return self._errors[-1] if self._errors else ""

    def send(self, command: str) -> Command:
        """Send a command, and do not wait for the answer."""
        number, sent = next(self._numbers), Command(time.monotonic())
        with self._lock:
            self._unanswered[number] = sent
            with contextlib.suppress(BrokenPipeError, ValueError):
                cast(IO[bytes], self._process.stdin).write(f"{number} {command}\n".encode())
        self._restore_priority()
        return sent

    def call(self, command: str, within: float) -> Command | None:
        """Send a command, and wait for the answer for so many seconds; return None if there was none."""
        sent = self.send(command)
        return sent if self.wait_for(sent, within) else None

    def wait_for(self, command: Command, within: float) -> bool:
        """Wait until a command is answered, for so many seconds; return whether it is."""
        end = time.monotonic() + within
        while not command.done.wait(timeouts.PRIORITY_RESTORED_EVERY):
            self._restore_priority()
            if time.monotonic() > end or not self.alive():
                return command.done.is_set()
        return True

    def silent_for(self) -> float:
        """Return the seconds since the oldest unanswered command was sent, 0 if there is none."""
        with self._lock:
            return time.monotonic() - min((one.sent for one in self._unanswered.values()), default=time.monotonic())

    def kill(self) -> None:
        """Kill the process, which detaches its tracees, and process its last records. Idempotent."""
        self._process.kill()
        self._wait(None)
        for reader in self._readers:
            reader.join(timeouts.TRACER_READ_WITHIN)
        self._take_ring()
        with contextlib.suppress(BrokenPipeError):
            cast(IO[bytes], self._process.stdin).close()

    def stop(self) -> None:
        """Wait until the tracer has detached and ended after the command `detach`; kill it if it does not."""
        # It detaches soon, but may have more records than the agent can read in that time.
        reads, within = -1, timeouts.TRACER_ENDS_WITHIN
        while self.alive() and reads != self._reads:
            reads = self._reads
            self._wait(within)
            within = timeouts.TRACER_READ_WITHIN
        self.kill()

    def _wait(self, within: float | None) -> None:
        """Wait until the process has ended, for so many seconds, or for ever if None."""
        end = None if within is None else time.monotonic() + within
        while end is None or time.monotonic() < end:
            self._restore_priority()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeouts.PRIORITY_RESTORED_EVERY)
                return

    def _restore_priority(self) -> None:
        """Give the tracer its share of the processors.

        It lowers its own priority to let a thread run first (native/near.h). While other processes keep all processors busy, it
        would then not run for seconds, not even to end.
        """
        with contextlib.suppress(
            OSError
        ):  # it has ended, or the agent lacks CAP_SYS_NICE, without which the tracer does not lower its priority
            if self._process.returncode is None and os.sched_getscheduler(self.pid) == os.SCHED_IDLE:
                os.sched_setscheduler(self.pid, os.SCHED_OTHER, os.sched_param(0))

    def _read_records(self) -> None:
        with cast(IO[bytes], self._process.stdout) as records:
            left = b""
            while data := records.read(RECORD.size * 4096):
                data = left + data
                whole = len(data) - len(data) % RECORD.size
                left = data[whole:]
                self._take(RECORD.iter_unpack(data[:whole]))
                self._reads += 1

    def _take_ring(self) -> None:
        """Process the calls that are only in the ring buffer, which outlives the tracer."""
        if self._ring.closed:
            return
        (taken,) = _TAKEN.unpack_from(self._ring)
        left = [record for record in RECORD.iter_unpack(self._ring[_TAKEN.size :]) if record[-1] > self._last_serial]
        self._take(sorted(left, key=lambda record: int(record[-1])))
        self.unreported = max(0, taken - self._reported)
        self._close_ring()

    def _close_ring(self) -> None:
        self._ring.close()
        os.close(self._ring_fd)

    def _take(self, records: Iterable[tuple[Any, ...]]) -> None:
        """Process records in order. Calls that ended alike are coalesced, as there may be a hundred thousand a second."""
        alike: dict[tuple[int, int, int, int], list[int]] = {}
        for kind, number, thread, nr, value, took, _held, flags, serial in records:
            if kind == CALL:
                self._reported += 1
                self._last_serial = serial
                alike.setdefault((number, nr, min(value, 0), flags), []).append(took)
                continue
            self._deliver(alike)
            alike = {}
            if kind in (DONE, REFUSED):
                self._take_answer(kind, number, thread, value)
            else:
                self._on_event(kind, number, thread, value)
        self._deliver(alike)

    def _deliver(self, alike: dict[tuple[int, int, int, int], list[int]]) -> None:
        for (key, nr, value, flags), took in alike.items():
            self._on_calls(key, nr, value, flags, took)

    def _take_answer(self, kind: int, number: int, thread: int, value: int) -> None:
        with self._lock:
            command = self._unanswered.get(number) if kind == REFUSED else self._unanswered.pop(number, None)
        if command and kind == REFUSED:
            command.refused[thread] = value
        elif command:
            command.error = value
            command.done.set()

    def _read_errors(self) -> None:
        with cast(IO[bytes], self._process.stderr) as lines:
            for line in lines:
                text = line.decode(errors="replace").strip()
                if text.startswith(_TRACE):
                    _log.info("tracer %d: %s", self.pid, text.removeprefix(_TRACE))
                else:
                    self._errors.append(text)
