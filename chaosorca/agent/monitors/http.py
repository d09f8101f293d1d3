"""HTTP/1.x of each target, followed in the kernel by a socket filter in its network namespace (bpf/http.c)."""

from __future__ import annotations

import contextlib
import os
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
from chaosorca.agent.targets import Target
from chaosorca.model.errors import AgentError

_TARGET = 0x0CA05021
_METHODS = ["", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"]
_ROLES = ["server", "client"]
_REASONS = ["joined mid-message", "pipelined"]
_UNANSWERED_AFTER = 60.0
_LOOK_EVERY = 5.0


@dataclass
class _Watched:
    number: int
    namespace: int
    packets: socket.socket
    filter_fd: int

    def close(self) -> None:
        self.packets.close()
        os.close(self.filter_fd)


class HttpMonitor:
    """Counts and times HTTP requests; compiled once, loaded once for each target with its number in it."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._lock = threading.Lock()
        self._preparing = threading.Lock()
        self._given_up: Counter[tuple[int, int, int]] = Counter()
        self._looked_for_old = 0.0
        self._program: Any = None
        self._instructions = b""
        self._targets: dict[str, _Watched] = {}
        self._next = 1

    def prepare(self) -> None:
        """Compile the program, if that has not been done: the first time takes a second or more."""
        with self._preparing:
            if self._program is None:
                program = kernel.compile_program("http", {})
                self._instructions = program.dump_func(b"http")
                self._program = program

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
        self.prepare()
        with self._lock:
            before = self._targets.get(target.name)
            if before and before.namespace == namespace:
                return
            number = before.number if before else self._next
            self._next += 0 if before else 1
            code = kernel.replace_constant(self._instructions, _TARGET, number)
            filter_fd = kernel.load_socket_filter(code)
            try:
                packets = kernel.packet_socket(self._proc / str(pid) / "ns" / "net", filter_fd)
            except OSError:
                os.close(filter_fd)
                raise
            self._targets[target.name] = _Watched(number, namespace, packets, filter_fd)
            if before:
                before.close()

    def unwatch(self, name: str) -> None:
        """Stop following a target's requests and forget its counts."""
        with self._lock:
            watched = self._targets.pop(name, None)
            if watched is None:
                return
            watched.close()
            for table in ("counts", "durations", "unparsed", "connections"):
                for key in [key for key in self._program[table] if key.target == watched.number]:
                    self._delete(table, key)
            self._given_up = Counter({key: count for key, count in self._given_up.items() if key[0] != watched.number})

    def counts(self) -> dict[tuple[str, str, str, str], int]:
        """Requests by container, role, method and code (`none`: never answered)."""
        with self._lock:
            names = self._names_of_targets()
            counts = Counter(
                {
                    (names[key.target], _ROLES[key.role], _METHODS[key.method], str(key.code) if key.code else "none"): leaf
                    for key, leaf in kernel.entries(self._program, "counts")
                    if key.target in names
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
                (names[key.target], _ROLES[key.role]): Histogram(list(leaf.slots), leaf.sum / 1e9)
                for key, leaf in kernel.entries(self._program, "durations")
                if key.target in names
            }

    def unparsed(self) -> dict[tuple[str, str], int]:
        """Messages that could not be followed, by container and reason."""
        with self._lock:
            names = self._names_of_targets()
            return {
                (names[key.target], _REASONS[key.reason]): leaf
                for key, leaf in kernel.entries(self._program, "unparsed")
                if key.target in names
            }

    def in_flight(self) -> dict[tuple[str, str], int]:
        """Requests that wait for their answer, by container and role."""
        with self._lock:
            names = self._names_of_targets()
            result = {(name, role): 0 for name in names.values() for role in _ROLES}
            for key, leaf in kernel.entries(self._program, "connections"):
                if leaf.open and key.target in names:
                    result[names[key.target], _ROLES[leaf.role]] += 1
            return result

    def give_up_on_old(self) -> None:
        """Count requests that have waited for their answer for a minute as never answered. Looks every few seconds at the most."""
        with self._lock:
            now = time.monotonic()
            if self._program is None or now - self._looked_for_old < _LOOK_EVERY:
                return
            self._looked_for_old = now
            oldest = int((now - _UNANSWERED_AFTER) * 1e9)
            for key, leaf in kernel.entries(self._program, "connections"):
                if leaf.open and leaf.began < oldest:
                    self._delete("connections", key)
                    self._given_up[key.target, leaf.role, leaf.method] += 1

    def _delete(self, table: str, key: Any) -> None:
        with contextlib.suppress(KeyError):  # the kernel may have been faster
            del self._program[table][key]

    def _names_of_targets(self) -> dict[int, str]:
        return {watched.number: name for name, watched in self._targets.items()}
