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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from chaosorca.agent import proc as procfs
from chaosorca.model.errors import InvalidArgument
from chaosorca.model.fault import Fault

_LINE = re.compile(
    r"(?P<thread>\d+) +(?:<\.\.\. )?(?P<name>\w+)(?: resumed>|\().*\) += (?P<result>.*?)"
    r"(?P<marks>(?: \((?:INJECTED|DELAYED)\))*)(?: <(?P<seconds>[\d.]+)>)?"
)
_NEWEST = 450
_NEVER_KNOWN = {"uretprobe"}
_ASKED_TO_END = 0.5
_GUARD = ["setpriv", "--pdeathsig", "KILL"]


@dataclass(frozen=True)
class Call:
    """A call of the faulted system call that has ended: what the program saw of it, but for a delay after it."""

    syscall: str
    error: str
    injected: bool
    delayed: bool
    seconds: float
    thread: int
    returned: bool = True


def parse_line(line: str) -> Call | None:
    """Return the call that a line of strace's output tells of the end of; None for any other line."""
    match = _LINE.fullmatch(line.rstrip("\n"))
    if match is None:
        return None
    error = re.match(r"-1 (E[A-Z0-9_]+)\b", match["result"])
    marks = match["marks"]
    return Call(
        syscall=match["name"],
        error=error[1] if error else "",
        injected="(INJECTED)" in marks,
        delayed="(DELAYED)" in marks,
        seconds=float(match["seconds"] or 0),
        thread=int(match["thread"]),
        returned=not match["result"].startswith("?"),  # the thread was killed in it
    )


def check_known(syscalls: Sequence[str], numbers: dict[str, int]) -> None:
    """Refuse system calls that the agent's strace (6.1) does not know: it takes no number above those that it has names for.

    Raises:
        InvalidArgument: one of them is newer than strace.
    """
    for name in syscalls:
        if numbers[name] > _NEWEST or name in _NEVER_KNOWN:
            raise InvalidArgument(
                f"system call {name!r} is newer than strace 6.1, which injects the fault: it is not supported yet"
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
        on_call: Callable[[Call], None],
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
