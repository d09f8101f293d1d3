"""The part of the monitoring that the faults use."""

from __future__ import annotations

from typing import Protocol

from chaosorca.agent.monitors.requests import Requests


class Monitored(Protocol):
    """The monitoring of all containers, as the faults see it."""

    def requests_to(self, container: str) -> Requests | None:
        """Return the HTTP requests to a container so far; None if the container's HTTP is not monitored."""

    def calls_of(self, container: str) -> dict[str, int] | None:
        """Return how often a container made each system call; None if the container's calls are not monitored."""

    def marks(self) -> int | None:
        """Return the id of the map of threads whose calls the kernel does not time; None while there is no such map."""

    def leave_timing_to_tracer(self, container: str, by_call: tuple[str, ...], by_thread: bool) -> None:
        """Let the tracer time all calls of the system calls `by_call`, and the calls of marked threads if `by_thread` is true."""
