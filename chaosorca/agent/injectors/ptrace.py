"""The injector `ptrace`: native tracers stop the threads of a container at each system call."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Executor
from pathlib import Path

from chaosorca.agent.injectors.pool import TracerPool
from chaosorca.agent.injectors.records import Records
from chaosorca.agent.injectors.session import OnCalls
from chaosorca.agent.injectors.tracer import PROGRAM
from chaosorca.model.fault import Fault


class PtraceSession:
    """All faults of a container. The container's threads stop at each system call; see `session.Session`."""

    injector = "ptrace"
    timing = "by thread"

    def __init__(
        self,
        numbers: dict[str, int],
        on_calls: OnCalls,
        spawner: Executor,
        marks: Callable[[], int | None] = lambda: None,
        proc: Path = Path("/proc"),
        program: str = PROGRAM,
    ) -> None:
        """Start a tracer.

        Arguments:
            numbers: the numbers of system calls by name.
            on_calls: receives the calls that a fault was injected into.
            spawner: starts tracers, from a thread that lives as long as the agent.
            marks: returns the id of the map of threads whose calls the kernel does not time; None while there is no such map.
            proc: the proc file system.
            program: the tracer's executable.

        Raises:
            AgentError: the tracer could not be started. All resources are released.
        """
        self._names = {number: name for name, number in numbers.items()}
        self._proc = proc
        self._records = Records(self._names, on_calls, lambda kind, key, thread: None)
        self._pool = TracerPool(numbers, self._records, spawner, marks, proc, program)
        self.restarts = self._pool.restarts

    def add(self, key: int, fault: Fault, seconds: float, seed: int) -> None:
        """See `Session.add`."""
        self._pool.add(key, fault, seconds, seed)

    def remove(self, key: int) -> None:
        """See `Session.remove`."""
        self._pool.remove(key)

    def attach(self, pids: Collection[int], within: float) -> dict[int, str]:
        """See `Session.attach`."""
        return self._pool.attach(pids, within)

    def is_attached(self, pid: int) -> bool:
        """See `Session.is_attached`."""
        return self._pool.is_attached(pid)

    def ended(self) -> dict[int, str]:
        """See `Session.ended`."""
        return self._pool.ended()

    def supervise(self, pids: Collection[int]) -> str | None:
        """See `Session.supervise`."""
        return self._pool.supervise(pids, self.attach)

    def seen(self) -> dict[str, int]:
        """See `Session.seen`."""
        return {self._names.get(number, f"unknown:{number}"): count for number, count in self._pool.seen().items()}

    def probed(self) -> dict[str, int] | None:
        """See `Session.probed`."""
        return None

    def warnings(self) -> list[str]:
        """See `Session.warnings`."""
        return self._records.warnings(self._proc) + self.final_warnings()

    def final_warnings(self) -> list[str]:
        """See `Session.final_warnings`."""
        return self._pool.final_warnings()

    def stop(self) -> None:
        """See `Session.stop`."""
        self._pool.stop()
