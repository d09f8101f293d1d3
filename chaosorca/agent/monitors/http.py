"""HTTP/1.x of each target, followed in the kernel by a socket filter in its network namespace (bpf/http.c)."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaosorca.agent import kernel
from chaosorca.agent import proc as procfs
from chaosorca.agent.histogram import Histogram
from chaosorca.agent.libbpf import Program
from chaosorca.agent.targets import Target
from chaosorca.model.errors import AgentError

_METHODS = ["", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"]
_ROLES = ["server", "client"]
_REASONS = ["joined mid-message", "pipelined"]
_UNANSWERED_AFTER = 60.0
_LOOK_EVERY = 5.0
_LAYOUTS = {
    "connections": ("=7Q", "=QIIBBBB4x"),
    "counts": ("=IHBB", "=Q"),
    "durations": ("=II", f"=Q{kernel.SLOTS}Q"),
    "unparsed": ("=II", "=Q"),
    "parser": ("=I", "=I"),
    "dropped": ("=I", "=Q"),
}
"""Of the maps in bpf/http.c."""


@dataclass
class _Watched:
    number: int
    namespace: int
    packets: socket.socket
    filter: Program

    def close(self) -> None:
        self.packets.close()
        self.filter.close()


class HttpMonitor:
    """Counts and times HTTP requests; one program for all targets, with a filter for each that tells it whose packets these are."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._lock = threading.Lock()
        self._preparing = threading.Lock()
        self._given_up: Counter[tuple[int, int, int]] = Counter()
        self._looked_for_old = 0.0
        self._program: Program | None = None
        self._targets: dict[str, _Watched] = {}
        self._next = 1

    def prepare(self) -> Program:
        """Load the program, if that has not been done, and return it."""
        with self._preparing:
            if self._program is None:
                program = Program("http", _LAYOUTS)
                program["parser"].put(0, program.fd("http"))
                self._program = program
            return self._program

    def watch(self, target: Target) -> None:
        """Begin to follow a target's requests, or follow it to the network namespace that it has now.

        Raises:
            AgentError: the container is on the host's network, where its requests cannot be told from others'.
        """
        if target.host_network:
            raise AgentError(
                f"HTTP of container {target.name!r} is not monitored: it is on the host's network, "
                "where its requests cannot be told from others'"
            )
        pid = next(iter(target.pids()), None)
        if pid is None:
            return
        try:
            namespace = procfs.namespace(self._proc, pid, "net")
        except OSError:
            return
        program = self.prepare()
        with self._lock:
            before = self._targets.get(target.name)
            if before and before.namespace == namespace:
                return
            number = before.number if before else self._next
            self._next += 0 if before else 1
            own = Program("http_target", {}, {"TARGET": number}, maps_of=program)
            try:
                packets = kernel.packet_socket(self._proc / str(pid) / "ns" / "net", own.fd("http_target"))
            except OSError:
                own.close()
                raise
            self._targets[target.name] = _Watched(number, namespace, packets, own)
            if before:
                before.close()

    def unwatch(self, name: str) -> None:
        """Stop following a target's requests and forget its counts."""
        with self._lock:
            watched = self._targets.pop(name, None)
            if watched is None or self._program is None:
                return
            watched.close()
            for table in ("counts", "durations", "unparsed", "connections"):
                self._program[table].delete_those(lambda key: key[0] == watched.number)
            self._given_up = Counter({key: count for key, count in self._given_up.items() if key[0] != watched.number})

    def counts(self) -> dict[tuple[str, str, str, str], int]:
        """Requests by container, role, method and code (`none`: never answered)."""
        with self._lock:
            names = self._names_of_targets()
            counts = Counter(
                {
                    (names[target], _ROLES[role], _METHODS[method], str(code) if code else "none"): count
                    for (target, code, role, method), count in self._entries("counts")
                    if target in names
                }
            )
            for (number, role, method), count in self._given_up.items():
                if number in names:
                    counts[names[number], _ROLES[role], _METHODS[method], "none"] += count
            return dict(counts)

    def durations(self) -> dict[tuple[str, str], Histogram]:
        """Latency histograms by container and role."""
        with self._lock:
            names = self._names_of_targets()
            return {
                (names[target], _ROLES[role]): Histogram(slots, nanoseconds / 1e9)
                for (target, role), (nanoseconds, *slots) in self._entries("durations")
                if target in names
            }

    def unparsed(self) -> dict[tuple[str, str], int]:
        """Messages that could not be followed, by container and reason."""
        with self._lock:
            names = self._names_of_targets()
            return {
                (names[target], _REASONS[reason]): count for (target, reason), count in self._entries("unparsed") if target in names
            }

    def in_flight(self) -> dict[tuple[str, str], int]:
        """Requests that wait for their answer, by container and role."""
        with self._lock:
            names = self._names_of_targets()
            result = {(name, role): 0 for name in names.values() for role in _ROLES}
            for key, (_began, _asked, _answered, _method, role, is_open, _) in self._entries("connections"):
                if is_open and key[0] in names:
                    result[names[key[0]], _ROLES[role]] += 1
            return result

    def program(self) -> Program | None:
        """What is loaded, for what it costs; None before that."""
        return self._program

    def give_up_on_old(self) -> None:
        """Count requests that have waited for their answer for a minute as never answered. Looks every few seconds at the most."""
        with self._lock:
            now = time.monotonic()
            if self._program is None or now - self._looked_for_old < _LOOK_EVERY:
                return
            self._looked_for_old = now
            oldest = int((now - _UNANSWERED_AFTER) * 1e9)
            for key, (began, _asked, _answered, method, role, is_open, _) in self._entries("connections"):
                if is_open and began < oldest:
                    self._program["connections"].delete(key)
                    self._given_up[key[0], role, method] += 1

    def _entries(self, table: str) -> list[Any]:
        """A map's keys and values; none before the program runs."""
        return [] if self._program is None else self._program[table].entries()

    def _names_of_targets(self) -> dict[int, str]:
        return {watched.number: name for name, watched in self._targets.items()}
