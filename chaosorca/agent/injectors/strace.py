"""The injector `strace`: each fault runs its own strace(1).

strace traces and prints only the calls of the faulted system calls. It marks injected calls with `(INJECTED)` or `(DELAYED)`. It
prints arguments as raw numbers. Therefore, strace reads no memory of the target, and no argument can look like a mark.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from chaosorca.agent import timeouts
from chaosorca.agent.histogram import Histogram
from chaosorca.agent.injectors.session import Calls, OnCalls, Restarts
from chaosorca.agent.linux import proc as procfs
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import Fault
from chaosorca.model.when import when_matches

_LINE = re.compile(
    r"(?P<thread>\d+) +(?:<\.\.\. )?(?P<name>\w+)(?: resumed>|\().*\) += (?P<result>.*?)"
    r"(?P<marks>(?: \((?:INJECTED|DELAYED)\))*)(?: <(?P<seconds>[\d.]+)>)?"
)
_GUARD = ["setpriv", "--pdeathsig", "KILL"]


@dataclass(frozen=True)
class Line:
    """A finished call in strace's output, as the program experienced it. The duration does not include a delay at the exit."""

    syscall: str
    error: str
    injected: bool
    delayed: bool
    seconds: float
    thread: int
    returned: bool = True


def parse_line(line: str) -> Line | None:
    """Return the finished call that a line of strace's output reports; None for any other line."""
    match = _LINE.fullmatch(line.rstrip("\n"))
    if match is None:
        return None
    error = re.match(r"-1 (E[A-Z0-9_]+)\b", match["result"])
    marks = match["marks"]
    return Line(
        syscall=match["name"],
        error=error[1] if error else "",
        injected="(INJECTED)" in marks,
        delayed="(DELAYED)" in marks,
        seconds=float(match["seconds"] or 0),
        thread=int(match["thread"]),
        returned=not match["result"].startswith("?"),  # the thread was killed during the call
    )


def strace_command(fault: Fault, pids: Sequence[int], output_fd: int) -> list[str]:
    """Return the command that injects a fault into processes, with all of their threads and their later children.

    Arguments:
        fault: the fault.
        pids: the processes, in strace's pid namespace.
        output_fd: the file descriptor that strace writes to.
    """
    names = ",".join(fault.syscalls)
    inject = [f"inject={names}"]
    if fault.error:
        inject.append(f"error={fault.error}")
    if fault.retval is not None:
        inject.append(f"retval={fault.retval}")
    if fault.signal:
        inject.append(f"signal={fault.signal}")
    if fault.delay_enter:
        inject.append(f"delay_enter={fault.delay_enter}us")
    if fault.delay_exit:
        inject.append(f"delay_exit={fault.delay_exit}us")
    if fault.when:
        inject.append(f"when={fault.when}")
    quiet = ["-f", "-qq", "-T", "-e", "signal=none", "-o", f"/dev/fd/{output_fd}"]
    what = ["-e", f"trace={names}", "-e", f"raw={names}"]
    if not fault.placebo:
        what += ["-e", ":".join(inject)]
    return ["strace", *quiet, *what, "-p", ",".join(map(str, pids))]


class Strace:
    """A running strace. It is killed when the agent dies. It is also killed at its deadline, even if the agent hangs."""

    def __init__(
        self,
        fault: Fault,
        pids: Sequence[int],
        deadline: float,
        on_call: Callable[[Line], None],
        proc: Path = Path("/proc"),
    ) -> None:
        """Start strace. The calling thread must live as long as the agent, because the kernel kills strace when that thread ends.

        Arguments:
            fault, pids: see `strace_command`.
            deadline: the time in seconds after which strace is killed in any case.
            on_call: receives each finished call. A thread of this object calls it.
            proc: the proc file system.

        Raises:
            OSError: strace could not be started.
        """
        self.pids = tuple(pids)
        self._on_call = on_call
        self._proc = proc
        self._errors: list[str] = []
        reading, writing = os.pipe()
        try:
            # `timeout` enforces the deadline. The kernel kills `timeout` and strace when their parents end.
            self._process = subprocess.Popen(
                [
                    *_GUARD,
                    *("timeout", "--foreground", "--signal=KILL", f"{deadline:.3f}"),
                    *_GUARD,
                    *strace_command(fault, pids, writing),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[writing],
                text=True,
            )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._readers = [
            threading.Thread(target=self._read_calls, args=(os.fdopen(reading, errors="replace"),), daemon=True),
            threading.Thread(target=self._read_errors, args=(cast(IO[str], self._process.stderr),), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def alive(self) -> bool:
        """Return whether strace still runs."""
        return self._process.poll() is None

    def pid(self) -> int | None:
        """Return the process id of strace itself; None before strace runs and after strace has ended."""
        pid = self._process.pid
        for _guard in range(2):
            if procfs.command_name(self._proc, pid) == "strace":
                return pid
            pid = next(iter(procfs.children(self._proc, pid)), -1)
        return pid if procfs.command_name(self._proc, pid) == "strace" else None

    def last_error(self) -> str:
        """Return the last line that strace wrote to standard error; empty if it wrote none."""
        return self._errors[-1].removeprefix("strace: ") if self._errors else ""

    def stop(self) -> None:
        """End strace by SIGTERM, and wait for its end. A strace that does not end in time is killed. Idempotent."""
        pid = self.pid()
        if pid is not None and self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        try:
            self._process.wait(timeouts.STRACE_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join(timeouts.STRACE_ENDS_WITHIN)

    def wait_attached(self, within: float) -> dict[int, str]:
        """Wait until this strace traces every thread of the processes.

        Arguments:
            within: the timeout in seconds.

        Returns:
            the processes with an untraced thread, each with the reason. Processes that have ended are left out.
        """
        end = time.monotonic() + within
        while True:
            pid = self.pid()
            missing = [one for one in self.pids if not self._is_traced(one, pid)]
            if not missing or not self.alive() or time.monotonic() > end:
                return {one: self.last_error() or "strace did not attach in time" for one in missing}
            time.sleep(timeouts.STRACE_POLLED_EVERY)

    def _is_traced(self, pid: int, strace: int | None) -> bool:
        tracers = [procfs.tracer_of(self._proc, pid, tid) for tid in procfs.threads(self._proc, pid)]
        return all(found is None or found == strace for found in tracers)

    def _read_calls(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                call = parse_line(line)
                if call is not None:
                    self._on_call(call)

    def _read_errors(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                self._errors.append(line.strip())
                del self._errors[:-10]


class StraceSession:
    """One fault on a container; see `session.Session`. Each call of `attach` starts one strace for the given processes."""

    injector = "strace"
    timing = "by call"

    def __init__(self, on_calls: OnCalls, spawner: Executor, proc: Path = Path("/proc")) -> None:
        """
        Arguments:
            on_calls: receives all calls of the faulted system calls, injected or not.
            spawner: starts strace, from a thread that lives as long as the agent.
            proc: the proc file system.
        """
        self.restarts = Restarts()
        self._on_calls = on_calls
        self._spawner = spawner
        self._proc = proc
        self._running: list[Strace] = []
        self._key = 0
        self._fault: Fault | None = None
        self._ends = 0.0
        # Guards `_made`. Each strace has its own thread, which reads its output.
        self._lock = threading.Lock()
        self._made: Counter[tuple[int, str]] = Counter()

    def add(self, key: int, fault: Fault, seconds: float, seed: int) -> None:
        """See `Session.add`."""
        if self._fault is not None:
            raise AgentError(
                "a container can have one fault by strace at a time, since a thread can have only one tracer: "
                "stop it first, or start all of them with injector 'ptrace'"
            )
        self._key, self._fault, self._ends = key, fault, time.monotonic() + seconds

    def remove(self, key: int) -> None:
        """See `Session.remove`."""
        if key == self._key:
            self.stop()

    def attach(self, pids: Collection[int], within: float) -> dict[int, str]:
        """See `Session.attach`."""
        if self._fault is None or not pids:
            return {}
        left = self._ends - time.monotonic() + timeouts.STRACE_GRACE
        strace = self._spawner.submit(Strace, self._fault, list(pids), left, self._on_line, self._proc).result()
        self._running.append(strace)
        missing = strace.wait_attached(within)
        if not strace.alive() or len(missing) == len(pids):
            self._running.remove(strace)
            strace.stop()
        return missing

    def is_attached(self, pid: int) -> bool:
        """See `Session.is_attached`."""
        tracer = procfs.tracer_of(self._proc, pid, pid)
        return bool(tracer) and tracer in {one.pid() for one in self._running}

    def ended(self) -> dict[int, str]:
        """See `Session.ended`."""
        return {}

    def supervise(self, pids: Collection[int]) -> str | None:
        """See `Session.supervise`. Remove each strace that has ended or is stopped.

        The agent then attaches a new strace to the processes of the removed one, as if these processes were new.
        """
        looping = None
        for strace in list(self._running):
            pid = strace.pid()
            if strace.alive() and pid is not None and procfs.state_of(self._proc, pid) in ("T", "t"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # a stopped process does not react to SIGTERM
                strace.stop()
            if not strace.alive():
                self._running.remove(strace)
                if set(pids) & set(strace.pids):
                    looping = self.restarts.note(time.monotonic(), strace.last_error()) or looping
        return looping

    def seen(self) -> dict[str, int]:
        """See `Session.seen`. The result is empty, because strace reports only the calls of the fault."""
        return {}

    def probed(self) -> dict[str, int] | None:
        """See `Session.probed`."""
        return None

    def warnings(self) -> list[str]:
        """See `Session.warnings`."""
        return []

    def final_warnings(self) -> list[str]:
        """See `Session.final_warnings`."""
        return []

    def stop(self) -> None:
        """See `Session.stop`."""
        for strace in self._running:
            strace.stop()
        self._running = []
        self._fault = None

    def _on_line(self, line: Line) -> None:
        fault = self._fault
        if fault is None:
            return
        delayed = bool(fault.delay_enter or fault.delay_exit) and not fault.placebo
        took = Histogram()
        took.observe(line.seconds + (fault.delay_exit or 0) / 1e6 * line.delayed)
        self._on_calls(
            Calls(
                key=self._key,
                syscall=line.syscall,
                error=line.error,
                effects=fault.effects if self._is_injected(fault, line) else (),
                replaced=line.injected,
                timed=line.injected or delayed,
                returned=line.returned,
                count=1,
                durations=took,
            )
        )

    def _is_injected(self, fault: Fault, line: Line) -> bool:
        """Return whether strace has injected into a call. strace marks injected calls, unless the fault only sends a signal."""
        if fault.effects != ("signal",) or fault.placebo:
            return line.injected or line.delayed
        with self._lock:
            self._made[line.thread, line.syscall] += 1
            return when_matches(fault.when, self._made[line.thread, line.syscall])
