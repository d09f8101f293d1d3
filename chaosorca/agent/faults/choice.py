"""Chooses the injector of a fault, and opens a session of this injector."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from chaosorca.agent import timeouts
from chaosorca.agent.code.binaries import give_back_memory
from chaosorca.agent.faults.monitored import Monitored
from chaosorca.agent.injectors.arming import Arming
from chaosorca.agent.injectors.ptrace import PtraceSession
from chaosorca.agent.injectors.session import OnCalls, Session
from chaosorca.agent.injectors.strace import StraceSession
from chaosorca.agent.injectors.uprobe import UprobeSession
from chaosorca.agent.targets.target import Target
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import Fault
from chaosorca.model.injectors import uprobe_cannot
from chaosorca.model.syscall_table import syscall_numbers

Cgroups = Callable[[], list[int]]
"""Returns the current ids of a target's control groups."""


class Choice:
    """Chooses injectors and opens sessions, for all targets."""

    def __init__(self, arch: str, arming: Arming, monitored: Monitored, proc: Path = Path("/proc")) -> None:
        """
        Arguments:
            arch: the machine, `x86_64` or `aarch64`.
            arming: the uprobes that arm threads.
            monitored: the monitoring, which leaves the timing of marked threads to the tracer.
            proc: the proc file system.
        """
        self._arch = arch
        self._numbers = syscall_numbers(arch)
        self._arming = arming
        self._marks = monitored.marks
        self._proc = proc
        self._keys = itertools.count(1)
        self._reading = threading.Lock()  # reading code takes memory and time, so only one container's is read at a time
        # The kernel kills a tracer when the thread that started the tracer ends. The spawner's thread lives as long as the agent.
        self._spawner: Executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

    def next_key(self) -> int:
        """Return a new number that identifies a fault in its session."""
        return next(self._keys)

    def prepare(self) -> None:
        """Load the program of the uprobes before the first fault needs it. If loading fails, that fault reports the error."""
        with contextlib.suppress(AgentError):
            self._arming.prepare()

    def read_ahead(self, target: Target) -> None:
        """Read the code of a target in the background, so that the target's first fault starts quickly."""

        def read() -> None:
            with self._reading, contextlib.suppress(AgentError, OSError):
                self._arming.cannot(target.pids())
                give_back_memory()

        threading.Thread(target=read, name="reader", daemon=True).start()

    def choose(self, injector: str, fault: Fault, pids: list[int], cgroups: Cgroups) -> tuple[str, str]:
        """Choose the injector of a fault on processes.

        Arguments:
            injector: `uprobe`, `ptrace`, `strace`, or `auto` for the cheapest injector that can inject the fault.
            fault: the fault.
            pids: the processes.
            cgroups: returns the control groups of the processes.

        Returns:
            the injector, and the reason why `auto` did not choose the cheapest injector. The reason is empty in all other cases.

        Raises:
            AgentError: the injector `uprobe` cannot inject the fault here.
        """
        if injector not in ("auto", "uprobe"):
            return injector, ""
        try:
            self._arming.prepare()
            if not cgroups():
                raise AgentError("the container has no control group of its own in the unified hierarchy, which identifies it")
            cannot = uprobe_cannot(fault, self._arch)
            why = f"it cannot do {cannot}" if cannot else self._arming.cannot(pids)
            if not why or injector == "uprobe":
                self._arming.try_out(pids, [self._numbers[name] for name in fault.syscalls])
                return "uprobe", ""
        except AgentError as error:
            if injector == "uprobe":
                raise
            why = str(error)
        return "ptrace", _instead(why)

    def open(self, injector: str, on_calls: OnCalls, cgroups: Cgroups) -> Session:
        """Open a session of an injector that `choose` returned.

        Raises:
            AgentError: the tracer could not be started.
        """
        if injector == "strace":
            return StraceSession(on_calls, self._spawner, self._proc)
        if injector == "uprobe":
            return UprobeSession(self._numbers, on_calls, self._spawner, self._marks, self._arming, cgroups, self._proc)
        return PtraceSession(self._numbers, on_calls, self._spawner, self._marks, self._proc)

    def begin(self, injector: str, fault: Fault, pids: list[int], on_calls: OnCalls, cgroups: Cgroups) -> tuple[Session, str]:
        """Choose an injector and open a session. `auto` falls back to ptrace if the uprobe session cannot be opened.

        Returns:
            the session, and the reason why `auto` did not choose the cheapest injector. The reason is empty in all other cases.

        Raises:
            AgentError: the injector cannot inject the fault here.
        """
        chosen, why = self.choose(injector, fault, pids, cgroups)
        try:
            return self.open(chosen, on_calls, cgroups), why
        except AgentError as error:
            if injector != "auto" or chosen == "ptrace":
                raise
            return self.open("ptrace", on_calls, cgroups), _instead(str(error))

    @contextlib.contextmanager
    def trial(self, injector: str, target: Target, fault: Fault, pid: int) -> Iterator[None]:
        """Attach a fault to one process of a target while the context lasts. The injected calls are not counted.

        Raises:
            AgentError: the fault could not be attached.
        """
        session, _ = self.begin(injector, fault, [pid], lambda calls: None, target.cgroup.ids)
        try:
            session.add(self.next_key(), fault, fault.duration / 1e6, 0)
            for reason in session.attach([pid], timeouts.ATTACH_WITHIN).values():
                raise AgentError(reason)
            yield
        finally:
            session.stop()


def _instead(why: str) -> str:
    return f"it is injected by ptrace, which stops every system call, and not by uprobes: {why}"
