"""HTTP/1.x of each target, followed in the kernel by a socket filter in its network namespace (bpf/http.c)."""

from __future__ import annotations

import contextlib
import errno
import itertools
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaosorca.agent import kernel
from chaosorca.agent import proc as procfs
from chaosorca.agent.histogram import Histogram
from chaosorca.agent.libbpf import Program
from chaosorca.agent.targets import Target
from chaosorca.model.errors import AgentError


class _Figures:
    """What the kernel keeps for each target (`struct figures`)."""

    NUMBERS = 7 + 6 + 2 * (1 + kernel.SLOTS)

    def __init__(self, of_processors: Sequence[Sequence[int]]) -> None:
        numbers = [sum(one) for one in zip(*of_processors, strict=True)]
        begun, ended, swept, rest = numbers[:2], numbers[2:4], numbers[4:6], numbers[6:]
        self.by_role = list(zip(begun, ended, swept, strict=True))
        self.unparsed, self.dropped = rest[:6], rest[6]
        durations = rest[7:]
        self.durations = [
            Histogram(list(one[1:]), one[0] / 1e9) for one in (durations[: 1 + kernel.SLOTS], durations[1 + kernel.SLOTS :])
        ]


_METHODS = ["", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "OTHER"]
_ROLES = ["server", "client"]
_REASONS = ["joined mid-message", "pipelined", "reordered", "malformed", "HTTP/2", "TLS"]
_UNANSWERED_AFTER = 60.0
_LOOK_EVERY = 5.0
_TARGETS = 512
_LAYOUTS = {
    "connections": ("=4Q2HI", "=424s"),
    "counts": ("=IHBB", "=Q"),
    "per_target": ("=I", f"={_Figures.NUMBERS}Q"),
    "parser": ("=I", "=I"),
}
"""Of the maps in bpf/http.c and bpf/http_exchange.h."""
_SWEEP = struct.Struct("=QQ")


@dataclass
class _Watched:
    number: int
    namespace: int
    filter: Program
    sockets: dict[str, kernel.PacketSocket] = field(default_factory=dict)

    def follow_devices(self, proc: Path, pid: int) -> None:
        """Have a socket on each device that the network namespace has now."""
        names = procfs.network_devices(proc, pid)
        for name in [name for name, one in self.sockets.items() if name not in names or not one.is_current()]:
            self.sockets.pop(name).close()
        for name in names - self.sockets.keys():
            try:
                self.sockets[name] = kernel.PacketSocket(proc / str(pid) / "ns" / "net", name, self.filter.fd("http_target"))
            except OSError as error:
                if error.errno != errno.ENODEV:  # it may be gone again
                    raise

    def close(self) -> None:
        for one in self.sockets.values():
            one.close()
        self.filter.close()


class HttpMonitor:
    """Counts and times HTTP requests; one program for all targets, with a filter for each that tells it whose packets these are."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._lock = threading.Lock()
        self._preparing = threading.Lock()
        self._lost: Counter[tuple[int, int]] = Counter()
        self._dropped_before = 0  # of those that are watched no longer
        self._connections = 0
        self._looked_for_old = 0.0
        self._program: Program | None = None
        self._targets: dict[str, _Watched] = {}

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
                with contextlib.suppress(OSError):  # the process has ended: another one is asked next time
                    before.follow_devices(self._proc, pid)
                return
            number = before.number if before else self._free_number()
            if not before:
                table = program["per_target"]
                table.put(number, [[0] * _Figures.NUMBERS for _processor in table.get(number)])
            watched = _Watched(number, namespace, Program("http_target", {}, {"TARGET": number}, maps_of=program))
            try:
                watched.follow_devices(self._proc, pid)
            except OSError:
                watched.close()
                raise
            self._targets[target.name] = watched
            if before:
                before.close()

    def unwatch(self, name: str) -> None:
        """Stop following a target's requests and forget its counts."""
        with self._lock:
            watched = self._targets.pop(name, None)
            if watched is None or self._program is None:
                return
            watched.close()
            lost = sum(count for (number, _role), count in self._lost.items() if number == watched.number)
            self._dropped_before += self._figures_of(watched.number).dropped + lost
            self._program["counts"].delete_those(lambda key: key[0] == watched.number)
            self._program["connections"].delete_those(lambda key: key[-1] == watched.number)
            self._lost = Counter({key: count for key, count in self._lost.items() if key[0] != watched.number})

    def counts(self) -> dict[tuple[str, str, str, str], int]:
        """Requests by container, role, method and code (`none`: never answered)."""
        with self._lock:
            names = self._names_of_targets()
            return {
                (names[target], _ROLES[role], _METHODS[method], str(code) if code else "none"): sum(of_processors)
                for (target, code, role, method), of_processors in self._entries("counts")
                if target in names
            }

    def durations(self) -> dict[tuple[str, str], Histogram]:
        """Latency histograms by container and role."""
        return {
            (name, role): histogram
            for name, figures in self._figures().items()
            for role, histogram in zip(_ROLES, figures.durations, strict=True)
            if any(histogram.slots)
        }

    def unparsed(self) -> dict[tuple[str, str], int]:
        """Messages and connections that could not be followed, by container and reason."""
        return {
            (name, reason): count
            for name, figures in self._figures().items()
            for reason, count in zip(_REASONS, figures.unparsed, strict=True)
            if count
        }

    def in_flight(self) -> dict[tuple[str, str], int]:
        """Requests that wait for their answer, by container and role."""
        with self._lock:
            return {
                (name, _ROLES[role]): max(0, begun - ended - self._lost[watched.number, role])
                for name, watched in self._targets.items()
                for role, (begun, ended, _swept) in enumerate(self._figures_of(watched.number).by_role)
            }

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
            numbers = [watched.number for watched in self._targets.values()]
            before = {number: self._figures_of(number) for number in numbers}
            sweep = self._program.run("sweep", _SWEEP.pack(int((now - _UNANSWERED_AFTER) * 1e9), 0))
            _, self._connections = _SWEEP.unpack(sweep)
            for number in numbers:
                after = self._figures_of(number)
                for role in range(len(_ROLES)):
                    begun, _, swept_before = before[number].by_role[role]
                    _, ended, swept = after.by_role[role]
                    # Never more than there are: what has begun since is missing, what has ended since is not.
                    lost = begun - ended - (swept - swept_before)
                    self._lost[number, role] = max(self._lost[number, role], lost)

    def cost(self) -> dict[str, dict[str, int]]:
        """Entries in use by map, connections when it was last looked, and events that found a map full or a connection in use."""
        with self._lock:
            figures = [self._figures_of(watched.number) for watched in self._targets.values()]
            dropped = self._dropped_before + sum(one.dropped for one in figures) + self._lost.total()
            counts = len(self._entries("counts"))
        return {"entries": {"connections": self._connections, "counts": counts}, "dropped": {"http": dropped}}

    def _figures(self) -> dict[str, _Figures]:
        with self._lock:
            return {name: self._figures_of(watched.number) for name, watched in self._targets.items()}

    def _figures_of(self, number: int) -> _Figures:
        none = [[0] * _Figures.NUMBERS]
        return _Figures(none if self._program is None else self._program["per_target"].get(number))

    def _free_number(self) -> int:
        used = {watched.number for watched in self._targets.values()}
        number = next(number for number in itertools.count() if number not in used)
        if number >= _TARGETS:
            raise AgentError(f"the HTTP of {_TARGETS} containers is monitored already: stop the monitoring of another one first")
        return number

    def _entries(self, table: str) -> list[Any]:
        """A map's keys and values; none before the program runs."""
        return [] if self._program is None else self._program[table].entries()

    def _names_of_targets(self) -> dict[int, str]:
        return {watched.number: name for name, watched in self._targets.items()}
