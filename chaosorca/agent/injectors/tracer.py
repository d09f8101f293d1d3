"""One native tracer (native/tracer.c). The agent writes commands to it, one per line, and reads its records (native/report.h)."""

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
        sent: the time of sending by the monotonic clock, in seconds.
        done: is set when the tracer has answered.
        error: the errno of the answer; 0 for success.
        refused: the threads that could not be attached, each with its errno.
    """

    sent: float
    done: threading.Event = field(default_factory=threading.Event)
    error: int = 0
    refused: dict[int, int] = field(default_factory=dict)


class Tracer:
    """One running tracer. If the environment contains `CHAOSORCA_TRACE=1`, the tracer logs each of its decisions."""

    def __init__(
        self,
        program: str,
        state_fd: int,
        on_calls: Callable[[int, int, int, int, list[int]], None],
        on_event: Callable[[int, int, int, int], None],
    ) -> None:
        """Start the tracer. The calling thread must live as long as the agent: the kernel kills the tracer when that thread ends.

        Threads of this object call `on_calls` and `on_event`.

        Arguments:
            program: the executable.
            state_fd: the file descriptor of the memory that the tracers of a container share.
            on_calls: receives calls with the same outcome. Its arguments are the rule, the system call's number, the result, flags,
                and the duration of each call in nanoseconds. A result that is not negative is passed as 0.
            on_event: receives each record that is neither a call nor an answer. Its arguments are the record's kind, id, thread and
                value.

        Raises:
            OSError: the tracer could not be started.
        """
        self._on_calls = on_calls
        self._on_event = on_event
        self._reads = 0
        self._last_serial = 0
        self._reported = 0
        self.unreported = 0
        """How many injected calls the tracer had not reported when it ended."""

        self._numbers = itertools.count(1)
        # Guards `_unanswered`, and lets only one thread at a time write to the tracer's standard input.
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
        with contextlib.suppress(OSError):  # with a larger pipe, the tracer buffers less
            fcntl.fcntl(cast(IO[bytes], self._process.stdout), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_records, self._read_errors)]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The process id of the tracer."""
        return self._process.pid

    def alive(self) -> bool:
        """Return whether the tracer runs."""
        return self._process.poll() is None

    def last_error(self) -> str:
        """Return the last line that the tracer wrote to standard error; empty if it wrote none."""
        return self._errors[-1] if self._errors else ""

    def send(self, command: str) -> Command:
        """Send a command without waiting for the answer."""
        number, sent = next(self._numbers), Command(time.monotonic())
        with self._lock:
            self._unanswered[number] = sent
            with contextlib.suppress(BrokenPipeError, ValueError):
                cast(IO[bytes], self._process.stdin).write(f"{number} {command}\n".encode())
        self._restore_priority()
        return sent

    def call(self, command: str, within: float) -> Command | None:
        """Send a command, and wait for the answer.

        Arguments:
            command: the command with its arguments.
            within: the timeout in seconds.

        Returns:
            the answered command; None if there was no answer in time.
        """
        sent = self.send(command)
        return sent if self.wait_for(sent, within) else None

    def wait_for(self, command: Command, within: float) -> bool:
        """Wait for the answer to a command, at most `within` seconds. Return whether the command has been answered."""
        end = time.monotonic() + within
        while not command.done.wait(timeouts.PRIORITY_RESTORED_EVERY):
            self._restore_priority()
            if time.monotonic() > end or not self.alive():
                return command.done.is_set()
        return True

    def silent_for(self) -> float:
        """Return the age of the oldest unanswered command in seconds; 0 if all commands are answered."""
        with self._lock:
            return time.monotonic() - min((one.sent for one in self._unanswered.values()), default=time.monotonic())

    def kill(self) -> None:
        """Kill the tracer, and process its last records. The kernel detaches the tracer's tracees. Idempotent."""
        self._process.kill()
        self._wait(None)
        for reader in self._readers:
            reader.join(timeouts.TRACER_READ_WITHIN)
        self._take_ring()
        with contextlib.suppress(BrokenPipeError):
            cast(IO[bytes], self._process.stdin).close()

    def stop(self) -> None:
        """After the command `detach`, wait until the tracer has ended. Kill the tracer if it does not end in time."""
        # The tracer detaches soon, but the agent may need longer to read the tracer's many records.
        reads, within = -1, timeouts.TRACER_ENDS_WITHIN
        while self.alive() and reads != self._reads:
            reads = self._reads
            self._wait(within)
            within = timeouts.TRACER_READ_WITHIN
        self.kill()

    def _wait(self, within: float | None) -> None:
        """Wait for the end of the tracer, at most `within` seconds. If `within` is None, wait without a timeout."""
        end = None if within is None else time.monotonic() + within
        while end is None or time.monotonic() < end:
            self._restore_priority()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeouts.PRIORITY_RESTORED_EVERY)
                return

    def _restore_priority(self) -> None:
        """Restore the tracer's normal priority.

        The tracer lowers its own priority to let a thread run first (native/near.h). While other processes keep all processors
        busy, a tracer of low priority would not run for seconds, and could not even end.
        """
        # Restoring fails if the tracer has ended, or if the agent lacks CAP_SYS_NICE. Without that capability, the tracer does not
        # lower its priority in the first place.
        with contextlib.suppress(OSError):
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
        """Process the calls that are only in the ring buffer. That buffer outlives the tracer."""
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
        """Process records in order. Calls with the same outcome are coalesced, because there may be 100 000 calls a second."""
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
