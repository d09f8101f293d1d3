"""Faults by strace(1): one process for a fault and the processes that it attaches to.

strace traces, and so prints, the calls that the fault is on; a call that it has tampered with is marked `(INJECTED)` or
`(DELAYED)`. Arguments are printed raw: that costs no reads of the target's memory, and leaves nothing in a line that could look
like a mark.
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
_ASKED_TO_END = 0.5
_GRACE = 5.0
_GUARD = ["setpriv", "--pdeathsig", "KILL"]


@dataclass(frozen=True)
class Line:
    """A call that strace tells of the end of: what the program saw of it, but for a delay after it."""

    syscall: str
    error: str
    injected: bool
    delayed: bool
    seconds: float
    thread: int
    returned: bool = True


def parse_line(line: str) -> Line | None:
    """Return the call that a line of strace's output tells of the end of; None for any other line."""
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
        returned=not match["result"].startswith("?"),  # the thread was killed in it
    )


def strace_command(fault: Fault, pids: Sequence[int], output_fd: int) -> list[str]:
    """The command that attaches a fault to processes, all of their threads and their later children.

    Arguments:
        fault: what to inject.
        pids: the processes, in strace's pid namespace.
        output_fd: where strace writes.
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
    """A running strace. It dies with the agent, and at its own deadline whatever the agent does."""

    def __init__(
        self,
        fault: Fault,
        pids: Sequence[int],
        deadline: float,
        on_call: Callable[[Line], None],
        proc: Path = Path("/proc"),
    ) -> None:
        """Start strace. Has to be called by a thread that lives as long as the agent: that is whose death strace watches.

        Arguments:
            fault, pids: see `strace_command`.
            deadline: seconds after which strace is killed in any case.
            on_call: is told of each finished call, from a thread of this object's.
            proc: the proc file system.
        """
        self.pids = tuple(pids)
        self._on_call = on_call
        self._proc = proc
        self._complaints: list[str] = []
        reading, writing = os.pipe()
        try:
            # `timeout` is the deadline; it and strace each have the kernel kill them when their parent dies.
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
            threading.Thread(target=self._read_complaints, args=(cast(IO[str], self._process.stderr),), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def pid(self) -> int | None:
        """strace's own process, None before it runs or after it has ended."""
        pid = self._process.pid
        for _guard in range(2):
            if procfs.command_name(self._proc, pid) == "strace":
                return pid
            pid = next(iter(procfs.children(self._proc, pid)), -1)
        return pid if procfs.command_name(self._proc, pid) == "strace" else None

    def complaint(self) -> str:
        """The last thing that strace said was wrong, empty if nothing."""
        return self._complaints[-1].removeprefix("strace: ") if self._complaints else ""

    def stop(self) -> None:
        """End strace and wait for it: asked first, killed if it does not go. Idempotent."""
        tracer = self.pid()
        if tracer is not None and self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(tracer, signal.SIGTERM)
        try:
            self._process.wait(_ASKED_TO_END)
        except subprocess.TimeoutExpired:
            if tracer is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(tracer, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join(_ASKED_TO_END)

    def wait_attached(self, within: float) -> dict[int, str]:
        """Wait until every thread of the processes is traced by this strace.

        Returns:
            for each process with a thread that is not, the reason; processes that have ended are not among them.
        """
        end = time.monotonic() + within
        while True:
            tracer = self.pid()
            missing = [pid for pid in self.pids if not self._is_traced(pid, tracer)]
            if not missing or not self.alive() or time.monotonic() > end:
                return {pid: self.complaint() or "strace did not attach in time" for pid in missing}
            time.sleep(0.002)

    def _is_traced(self, pid: int, tracer: int | None) -> bool:
        tracers = [procfs.tracer_of(self._proc, pid, tid) for tid in procfs.threads(self._proc, pid)]
        return all(found is None or found == tracer for found in tracers)

    def _read_calls(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                call = parse_line(line)
                if call is not None:
                    self._on_call(call)

    def _read_complaints(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                self._complaints.append(line.strip())
                del self._complaints[:-10]


class StraceSession:
    """One fault on a container, by a strace for those who were there and one for each group that came later; see `Session`."""

    injector = "strace"
    timing = "by call"

    def __init__(self, on_calls: OnCalls, spawner: Executor, proc: Path = Path("/proc")) -> None:
        """
        Arguments:
            on_calls: is told of the calls of the faulted system calls.
            spawner: has a thread that lives as long as the agent, to start tracers by.
            proc: the proc file system.
        """
        self.restarts = Restarts()
        self._on_calls = on_calls
        self._spawner = spawner
        self._proc = proc
        self._tracers: list[Strace] = []
        self._key = 0
        self._fault: Fault | None = None
        self._ends = 0.0
        self._made: Counter[tuple[int, str]] = Counter()
        self._counting = threading.Lock()

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
        left = self._ends - time.monotonic() + _GRACE
        tracer = self._spawner.submit(Strace, self._fault, list(pids), left, self._on_line, self._proc).result()
        self._tracers.append(tracer)
        missing = tracer.wait_attached(within)
        if not tracer.alive() or len(missing) == len(pids):
            self._tracers.remove(tracer)
            tracer.stop()
        return missing

    def is_attached(self, pid: int) -> bool:
        """See `Session.is_attached`."""
        tracer = procfs.tracer_of(self._proc, pid, pid)
        return bool(tracer) and tracer in {one.pid() for one in self._tracers}

    def ended(self) -> dict[int, str]:
        """See `Session.ended`."""
        return {}

    def supervise(self, pids: Collection[int]) -> str | None:
        """See `Session.supervise`. The processes of a tracer that has ended are attached again as newcomers are."""
        looping = None
        for tracer in list(self._tracers):
            pid = tracer.pid()
            if tracer.alive() and pid is not None and procfs.state_of(self._proc, pid) in ("T", "t"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # it would not hear of anything less
                tracer.stop()
            if not tracer.alive():
                self._tracers.remove(tracer)
                if set(pids) & set(tracer.pids):
                    looping = self.restarts.note(time.monotonic(), tracer.complaint()) or looping
        return looping

    def seen(self) -> dict[str, int]:
        """See `Session.seen`: strace tells only of calls that the fault is on."""
        return {}

    def probed(self) -> dict[str, int] | None:
        """See `Session.probed`."""
        return None

    def warnings(self) -> list[str]:
        """See `Session.warnings`."""
        return []

    def untold(self) -> list[str]:
        """See `Session.untold`."""
        return []

    def stop(self) -> None:
        """See `Session.stop`."""
        for tracer in self._tracers:
            tracer.stop()
        self._tracers = []
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
                effects=fault.effects if self._is_tampered(fault, line) else (),
                replaced=line.injected,
                timed=line.injected or delayed,
                returned=line.returned,
                count=1,
                durations=took,
            )
        )

    def _is_tampered(self, fault: Fault, line: Line) -> bool:
        """strace marks what it does to calls, but not the signals that it sends."""
        if fault.effects != ("signal",) or fault.placebo:
            return line.injected or line.delayed
        with self._counting:
            self._made[line.thread, line.syscall] += 1
            return when_matches(fault.when, self._made[line.thread, line.syscall])
