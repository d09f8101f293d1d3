"""Finds out what works on this host. It tries the agent's programs on the agent's own processes and packets."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from chaosorca.agent import timeouts
from chaosorca.agent.doctor import checks
from chaosorca.agent.faults.choice import Choice
from chaosorca.agent.linux.btf import io_accounting_offsets
from chaosorca.agent.monitors.http import HttpMonitor
from chaosorca.agent.monitors.io_source import IoSource
from chaosorca.agent.monitors.syscalls import SyscallMonitor
from chaosorca.agent.targets.target import Target
from chaosorca.model.contract import METRICS_PORT
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import Fault, read_fault
from chaosorca.model.finding import Finding, no, note, ok

_CALLS = 1000
_PATH = "/doctor"
_ERROR, _SUCCESS = "EXDEV", "success"
_ABOVE = "see capabilities and lockdown above"
_FAULT = f"uname:error={_ERROR}"

# For each line of input, the program makes a system call and prints the result of the call. The program's process is not dumpable.
# Tracing it or reading its memory therefore needs the same capabilities as for a process of another user.
_TEST_PROGRAM = """
import ctypes, errno, os, sys
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
for _ in sys.stdin:
    try:
        os.uname()
        print("success", flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
"""


class Doctor:
    """Examines this host, one examination at a time."""

    def __init__(
        self,
        arch: str,
        syscalls: SyscallMonitor,
        http: HttpMonitor,
        choice: Choice,
        io_source: Callable[[], IoSource],
        events_problem: Callable[[], str],
        port: int = METRICS_PORT,
        proc: Path = Path("/proc"),
    ) -> None:
        """
        Arguments:
            arch: the machine, `x86_64` or `aarch64`.
            syscalls, http, choice: the agent's monitors, and its choice of injectors.
            io_source: returns the source of storage figures.
            events_problem: returns why the agent does not receive the engine's events; empty if it does.
            port: the port on which the agent serves HTTP.
            proc: the proc file system.
        """
        self._arch = arch
        self._syscalls, self._http, self._choice = syscalls, http, choice
        self._io_source, self._events_problem = io_source, events_problem
        self._port = port
        self._proc = proc
        self._examining = threading.Lock()  # serialises examinations, which all use the agent's own target

    def examine(self, own: Target | None) -> list[Finding]:
        """Check and try everything once.

        Arguments:
            own: the agent as a target of its own monitors; None if it has no control group of its own.
        """
        with self._examining:
            return [*self._checks(own), *self._trials(own)]

    def _checks(self, own: Target | None) -> Iterator[Finding]:
        """Yield the findings of the checks, which read files."""
        me = self._proc / "self"
        try:
            security = checks.read_security()
        except (OSError, subprocess.TimeoutExpired):
            security = checks.Security()
        profile = checks.read_text(me / "attr" / "current") or ""
        yield checks.kernel(platform.release(), platform.machine())
        yield checks.capabilities(checks.read_text(me / "status") or "")
        yield checks.user_namespace(checks.read_text(me / "uid_map") or "")
        yield checks.pid_namespace(checks.read_text(self._proc / "2" / "comm"))
        yield checks.apparmor(checks.read_text(Path("/sys/module/apparmor/parameters/enabled")) or "", profile)
        yield checks.selinux(security.modules, profile)
        yield checks.yama(checks.read_text(self._proc / "sys" / "kernel" / "yama" / "ptrace_scope"))
        yield checks.lockdown(security.lockdown)
        yield ok("kernel headers", "are not needed: the programs were compiled when the agent's image was built")
        yield checks.type_information(io_accounting_offsets())
        yield checks.control_groups(own.cgroup if own else None)

    def _trials(self, own: Target | None) -> Iterator[Finding]:
        """Yield the findings of the trials."""
        for name, todo, trial in (
            ("tracepoints", f"{_ABOVE}, else use a kernel with CONFIG_BPF_EVENTS", self._tracepoints),
            ("socket filters", f"{_ABOVE}, else use Linux 5.17 or newer, with CONFIG_PACKET", self._filter),
            ("HTTPS", f"{_ABOVE}; it needs x86-64, BTF and the unified control groups", self._tls),
            ("uprobes", f"{_ABOVE}; they need x86-64, Linux 5.15 and BTF, and `auto` chooses ptrace otherwise", self._uprobe),
            ("ptrace", f"{_ABOVE}, and yama.ptrace_scope and AppArmor", self._ptrace),
            ("strace", "use another injector: strace is only for comparisons", self._strace),
            ("injector auto", "name an injector that works, see above", self._auto),
        ):
            if own is None:
                yield no(name, "cannot be tried without a control group of the agent's own", "see control groups above")
            else:
                yield _tried(name, todo, functools.partial(trial, own))
        source = self._io_source()
        yield ok("storage figures", f"come from {source.name}: {source.why}")
        problem = self._events_problem()
        yield (
            note("engine's socket", f"monitoring and faults do not continue when a container is re-created: {problem}")
            if problem
            else ok("engine's socket", "the agent reaches it: monitoring and faults continue when a container is re-created")
        )
        yield note("docker pause", "pausing the agent's container freezes the processes that it traces: end the faults first")

    def _tracepoints(self, own: Target) -> str:
        """Count system calls of the agent."""
        with _monitored(self._syscalls, own):
            for _ in range(_CALLS):
                os.getppid()
            counted = self._syscalls.counts().get((own.name, "getppid", ""), 0)
        if counted < _CALLS:
            raise AgentError(f"only {counted} of {_CALLS} system calls were counted")
        return f"{_CALLS} system calls of the agent were counted in the kernel"

    def _filter(self, own: Target) -> str:
        """Monitor an HTTP request to the agent."""
        with _monitored(self._http, own):
            with socket.create_connection(("127.0.0.1", self._port), timeout=timeouts.DOCTOR_ANSWER_WITHIN) as connection:
                connection.sendall(f"GET {_PATH} HTTP/1.0\r\n\r\n".encode())
                while connection.recv(4096):
                    pass
            end = time.monotonic() + timeouts.DOCTOR_REQUEST_SEEN_WITHIN
            while self._http.figures().counts.get((own.name, "server", "GET", "404", "false"), 0) != 1:
                if time.monotonic() > end:
                    raise AgentError("an HTTP request to the agent and its answer were not seen")
                time.sleep(timeouts.DOCTOR_REQUEST_POLLED_EVERY)
        return "an HTTP request to the agent was monitored in the kernel"

    def _tls(self, own: Target) -> str:
        """Load the program for HTTPS."""
        if why := self._http.no_tls():
            raise AgentError(why)
        if not own.cgroup.ids():
            raise AgentError("HTTPS is not monitored: there are no unified control groups")
        return "is monitored where a program uses OpenSSL's libssl: the kernel accepts the eBPF program"

    def _uprobe(self, own: Target) -> str:
        return self._inject("uprobe", own)

    def _ptrace(self, own: Target) -> str:
        return self._inject("ptrace", own)

    def _strace(self, own: Target) -> str:
        return self._inject("strace", own)

    def _inject(self, injector: str, own: Target) -> str:
        """Make a system call of a test process fail."""
        with _test_process() as process:
            with self._choice.trial(injector, own, self._fault(), process.pid):
                result = process.call()
            if result != _ERROR:
                raise AgentError(f"a call should have failed with {_ERROR}, but its result was {result}")
            if (result := process.call()) != _SUCCESS:
                raise AgentError(f"the fault had ended, but the result of the next call was {result}")
        return f"a call of a test process failed with {_ERROR} as expected, and no further call after the fault had ended"

    def _auto(self, own: Target) -> str:
        with _test_process() as process:
            injector, why = self._choice.choose("auto", self._fault(), [process.pid], own.cgroup.ids)
        try:
            self._inject(injector, own)
        except (AgentError, OSError) as error:
            raise AgentError(f"chooses {injector}, which does not work here ({error})") from error
        if why:
            return f"chooses {injector} here: {why}"
        return (
            f"chooses {injector} here, or ptrace for faults that uprobes cannot inject, and reports that; it never chooses strace"
        )

    def _fault(self) -> Fault:
        return read_fault(_FAULT, self._arch)


class _TestProcess:
    """A process to inject faults into."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def call(self) -> str:
        """Make the process issue its system call, and return the error or `success`."""
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101 - both are pipes
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answered, _, _ = select.select([self._process.stdout], [], [], timeouts.DOCTOR_ANSWER_WITHIN)
        return self._process.stdout.readline().strip() if answered else "none, because it did not return"


@contextlib.contextmanager
def _test_process() -> Iterator[_TestProcess]:
    started = subprocess.Popen([sys.executable, "-c", _TEST_PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process = _TestProcess(started)
    try:
        if process.call() != _SUCCESS:
            raise AgentError("a test process of the agent cannot make a system call")
        yield process
    finally:
        started.kill()
        started.communicate()


@contextlib.contextmanager
def _monitored(monitor: SyscallMonitor | HttpMonitor, own: Target) -> Iterator[None]:
    try:
        monitor.attach(own)
        yield
    finally:
        monitor.detach(own.name)


def _tried(name: str, todo: str, trial: Callable[[], str]) -> Finding:
    """Run a trial, and return its finding. An error of the trial is a finding too."""
    try:
        return ok(name, trial())
    except OSError as error:
        return no(name, error.strerror or str(error), todo)
    except Exception as error:
        return no(name, str(error) or type(error).__name__, todo)
