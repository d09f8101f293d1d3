"""What can be done on this host, found out by doing it: with the agent's own programs, on processes and packets of its own."""

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
_ANSWERS_WITHIN, _SEEN_WITHIN = 5.0, 2.0
_ERROR = "EXDEV"
_ABOVE = "look at capabilities and lockdown above"
_FAULT = f"uname:error={_ERROR}"

# Makes a system call whenever it is told to, and says what came of it. It is not dumpable, so that it takes as much to trace it, or
# to look into it, as another user's process does.
_SUBJECT = """
import ctypes, errno, os, sys
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
for _ in sys.stdin:
    try:
        os.uname()
        print("done", flush=True)
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
            syscalls, http, choice: what the agent itself monitors and injects by.
            io_source: tells who is asked what containers read and write.
            events_problem: returns why the engine's events are not followed, empty if they are.
            port: where the agent serves HTTP.
            proc: the proc file system.
        """
        self._arch = arch
        self._syscalls, self._http, self._choice = syscalls, http, choice
        self._io_source, self._events_problem = io_source, events_problem
        self._port = port
        self._proc = proc
        self._one_at_a_time = threading.Lock()

    def examine(self, own: Target | None) -> list[Finding]:
        """Do everything once.

        Arguments:
            own: the agent as a target of its own monitors; None where it has no control group of its own.
        """
        with self._one_at_a_time:
            return [*self._read(own), *self._do(own)]

    def _read(self, own: Target | None) -> Iterator[Finding]:
        """What files tell."""
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
        yield ok("kernel headers", "are not needed: programs were compiled when the agent's image was built")
        yield checks.type_information(io_accounting_offsets())
        yield checks.control_groups(own.cgroup if own else None)

    def _do(self, own: Target | None) -> Iterator[Finding]:
        """What doing it shows."""
        for name, todo, do in (
            ("tracepoints", f"{_ABOVE}, else use a kernel with CONFIG_BPF_EVENTS", self._tracepoints),
            ("socket filters", f"{_ABOVE}, else use Linux 5.17 or newer, with CONFIG_PACKET", self._filter),
            ("HTTPS", f"{_ABOVE}; it needs x86-64, BTF and the unified control groups", self._tls),
            ("uprobes", f"{_ABOVE}; they need x86-64, Linux 5.15 and BTF, and `auto` takes ptrace without", self._uprobe),
            ("ptrace", f"{_ABOVE}, yama.ptrace_scope and AppArmor too", self._ptrace),
            ("strace", "it is there to compare with: use another injector", self._strace),
            ("injector auto", "name the injector that works, of those above", self._auto),
        ):
            if own is None:
                yield no(
                    name, "cannot be tried without a control group of the agent's own", "see to the control groups above first"
                )
            else:
                yield _tried(name, todo, functools.partial(do, own))
        source = self._io_source()
        yield ok("storage figures", f"come from {source.name}: {source.why}")
        trouble = self._events_problem()
        yield (
            note("engine's socket", f"containers made anew under their name are not followed: {trouble}")
            if trouble
            else ok("engine's socket", "the agent reaches it: containers made anew under their name are followed")
        )
        yield note("docker pause", "pausing the agent's container freezes the processes that it traces: end the faults first")

    def _tracepoints(self, own: Target) -> str:
        """Count calls of the agent's own."""
        with _watched(self._syscalls, own):
            for _ in range(_CALLS):
                os.getppid()
            counted = self._syscalls.counts().get((own.name, "getppid", ""), 0)
        if counted < _CALLS:
            raise AgentError(f"{counted} of {_CALLS} system calls were counted")
        return f"{_CALLS} system calls of the agent's were counted in the kernel"

    def _filter(self, own: Target) -> str:
        """Follow a request to the agent."""
        with _watched(self._http, own):
            with socket.create_connection(("127.0.0.1", self._port), timeout=_ANSWERS_WITHIN) as connection:
                connection.sendall(f"GET {_PATH} HTTP/1.0\r\n\r\n".encode())
                while connection.recv(4096):
                    pass
            end = time.monotonic() + _SEEN_WITHIN
            while self._http.figures().counts.get((own.name, "server", "GET", "404", "false"), 0) != 1:
                if time.monotonic() > end:
                    raise AgentError("a request to the agent, and its answer, were not seen")
                time.sleep(0.01)
        return "a request to the agent was followed in the kernel"

    def _tls(self, own: Target) -> str:
        """Have the program for it loaded."""
        if why := self._http.no_tls():
            raise AgentError(why)
        if not own.cgroup.ids():
            raise AgentError("HTTPS is not followed: there are no unified control groups")
        return "is followed where a program uses OpenSSL's libssl: the kernel takes the program for it"

    def _uprobe(self, own: Target) -> str:
        return self._inject("uprobe", own)

    def _ptrace(self, own: Target) -> str:
        return self._inject("ptrace", own)

    def _strace(self, own: Target) -> str:
        return self._inject("strace", own)

    def _inject(self, injector: str, own: Target) -> str:
        """Have a call of a process of the agent's own fail."""
        with _subject() as subject:
            with self._choice.trial(injector, own, self._fault(), subject.pid):
                answer = subject.call()
            if answer != _ERROR:
                raise AgentError(f"a call that was to fail with {_ERROR} ended with {answer}")
            if (answer := subject.call()) != "done":
                raise AgentError(f"a call after the fault's end ended with {answer}")
        return f"a call of a process of the agent's own failed with {_ERROR} as it should, and no more after that"

    def _auto(self, own: Target) -> str:
        with _subject() as subject:
            injector, why = self._choice.choose("auto", self._fault(), [subject.pid], own.cgroup.ids)
        try:
            self._inject(injector, own)
        except (AgentError, OSError) as error:
            raise AgentError(f"takes {injector}, by which nothing comes of it ({error})") from error
        if why:
            return f"takes {injector} here: {why}"
        return f"takes {injector} here, or ptrace for what uprobes cannot do, which the result says; strace only if it is asked for"

    def _fault(self) -> Fault:
        return read_fault(_FAULT, self._arch)


class _Subject:
    """A process to try things on."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def call(self) -> str:
        """Have it make its system call; return the error, or `done`."""
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101 - both are pipes
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answered, _, _ = select.select([self._process.stdout], [], [], _ANSWERS_WITHIN)
        return self._process.stdout.readline().strip() if answered else "nothing, since it did not return"


@contextlib.contextmanager
def _subject() -> Iterator[_Subject]:
    process = subprocess.Popen([sys.executable, "-c", _SUBJECT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    subject = _Subject(process)
    try:
        if subject.call() != "done":
            raise AgentError("a process of the agent's own could not make a system call")
        yield subject
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def _watched(monitor: SyscallMonitor | HttpMonitor, own: Target) -> Iterator[None]:
    try:
        monitor.attach(own)
        yield
    finally:
        monitor.detach(own.name)


def _tried(name: str, todo: str, do: Callable[[], str]) -> Finding:
    """Do something; whatever goes wrong is what was found."""
    try:
        return ok(name, do())
    except OSError as error:
        return no(name, error.strerror or str(error), todo)
    except Exception as error:
        return no(name, str(error) or type(error).__name__, todo)
