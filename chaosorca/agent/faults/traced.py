"""The tracers of a target's threads, read from /proc."""

from __future__ import annotations

import time
from pathlib import Path

from chaosorca.agent import timeouts
from chaosorca.agent.injectors.session import Session, traced_by
from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.targets.target import Target
from chaosorca.model.errors import AgentError


class Tracees:
    """Reads the tracers of processes."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def tracers(self, pid: int) -> set[int | None]:
        """Return the tracers of a process's threads: 0 for none, None for a thread that has ended."""
        return {procfs.tracer_of(self._proc, pid, tid) for tid in procfs.threads(self._proc, pid)}

    def is_free(self, pid: int) -> bool:
        """Return whether a process has no tracer.

        A tracer attaches to all threads of a process, so it is enough to check the first thread while that thread is alive.
        """
        first = procfs.tracer_of(self._proc, pid, pid)
        return 0 in self.tracers(pid) if first is None else first == 0

    def is_wholly_attached(self, session: Session, pid: int) -> bool:
        """Return whether one tracer of the session traces all threads of a process."""
        return session.is_attached(pid) and len(self.tracers(pid) - {None}) <= 1

    def why_traced(self, session: Session, pid: int) -> str:
        """Return a sentence about the foreign tracer of a process; empty if the process has none."""
        tracer = procfs.tracer_of(self._proc, pid, pid)
        if not tracer or session.is_attached(pid):
            return ""
        return traced_by(self._proc, pid, tracer)

    def refuse_traced(self, target: Target, pids: list[int]) -> None:
        """Refuse a target if one of its processes has a tracer.

        Raises:
            AgentError: a process of the target has a tracer.
        """
        for pid in pids:
            for tracer in self.tracers(pid) - {0, None}:
                raise AgentError(
                    f"process {pid} of container {target.name!r} is being traced already, by process {tracer} "
                    f"({procfs.command_name(self._proc, tracer or 0)}): a thread can have only one tracer, end that one first"
                )

    def check_released(self, target: Target) -> None:
        """Wait until no process of a target is traced.

        Raises:
            AgentError: a process is still traced after the timeout.
        """
        end = time.monotonic() + timeouts.RELEASED_WITHIN
        while held := [pid for pid in target.pids() if self.tracers(pid) - {0, None}]:
            if time.monotonic() > end:
                raise AgentError(f"the fault on container {target.name!r} has ended, but {held} are still traced")
            time.sleep(0.005)
