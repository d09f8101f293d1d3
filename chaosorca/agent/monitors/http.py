"""HTTP/1.x of each target, followed in the kernel by a socket filter in its network namespace (bpf/http.c).

What is inside TLS comes from tls.py; the kernel counts it as if for another target, by `_TARGETS` higher.
"""

from __future__ import annotations

import errno
import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaosorca.agent.ebpf.program import Program
from chaosorca.agent.histogram import SLOTS, Histogram
from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.linux.packet_socket import PacketSocket
from chaosorca.agent.monitors.tls import SWEEP, TlsProbes
from chaosorca.agent.targets.target import Target
from chaosorca.model.errors import AgentError


class _Figures:
    """What the kernel keeps for each target (`struct figures`)."""

    NUMBERS = 7 + 6 + 2 * (1 + SLOTS)

    def __init__(self, of_processors: Sequence[Sequence[int]]) -> None:
        numbers = [sum(one) for one in zip(*of_processors, strict=True)]
        begun, ended, swept, rest = numbers[:2], numbers[2:4], numbers[4:6], numbers[6:]
        self.by_role = list(zip(begun, ended, swept, strict=True))
        self.unparsed, self.dropped = rest[:6], rest[6]
        durations = rest[7:]
        self.durations = [Histogram(list(one[1:]), one[0] / 1e9) for one in (durations[: 1 + SLOTS], durations[1 + SLOTS :])]


_METHODS = ["", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "OTHER"]
_ROLES = ["server", "client"]
_REASONS = ["joined mid-message", "pipelined", "reordered", "malformed", "HTTP/2", "TLS"]
_UNANSWERED_AFTER = 60.0
_TLS_UNTOLD_AFTER = 5.0
_LOOK_EVERY = 5.0
_TARGETS = 512
_NOWHERE = 0
"""In place of the number of a network namespace."""
_LAYOUTS = {
    "connections": ("=4Q2HI", "=424s"),
    "counts": ("=IHBB", "=Q"),
    "per_target": ("=I", f"={_Figures.NUMBERS}Q"),
    "parser": ("=I", "=I"),
    "tls_unseen": ("=I", "=Q"),
}
"""Of the maps in bpf/http.c and bpf/http_exchange.h."""
_BY_TLS = ["false", "true"]


@dataclass(frozen=True)
class HttpFigures:
    """What was counted of all targets.

    `counts` are requests by container, role, method, code (`none`: never answered) and whether they came by TLS (`true`, `false`);
    `durations` are their latencies, by container, role and TLS; `unparsed` is what could not be followed, by container and reason;
    `in_flight` are requests that wait for their answer, by container and role; `entries` are those in use, by map (connections:
    when it was last looked); `dropped` are events that found a map full or a connection in use.
    """

    counts: dict[tuple[str, str, str, str, str], int]
    durations: dict[tuple[str, str, str], Histogram]
    unparsed: dict[tuple[str, str], int]
    in_flight: dict[tuple[str, str], int]
    entries: dict[str, int]
    dropped: int


@dataclass
class _Watched:
    number: int
    namespace: int
    filter: Program
    sockets: dict[str, PacketSocket] = field(default_factory=dict)

    def follow_devices(self, proc: Path, pid: int) -> None:
        """Have a socket on each device that the network namespace has now."""
        names = procfs.network_devices(proc, pid)
        for name in [name for name, one in self.sockets.items() if name not in names or not one.is_current()]:
            self.sockets.pop(name).close()
        for name in names - self.sockets.keys():
            try:
                self.sockets[name] = PacketSocket(proc / str(pid) / "ns" / "net", name, self.filter.fd("http_target"))
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
        self._changing = threading.Lock()  # who is watched: taken before `_lock`, and for long
        self._lock = threading.Lock()  # what readers need, who are not to wait
        self._preparing = threading.Lock()
        self._lost: Counter[tuple[int, int]] = Counter()
        self._dropped_before = 0  # of those that are watched no longer
        self._connections = self._secured = 0
        self._looked_for_old = 0.0
        self._program: Program | None = None
        self._targets: dict[str, _Watched] = {}
        self._tls = TlsProbes(proc)
        self._no_tls = ""

    def prepare(self) -> Program:
        """Load the program, if that has not been done, and return it."""
        with self._preparing:
            if self._program is None:
                program = Program("http", _LAYOUTS)
                program["parser"].put(0, program.fd("http"))
                self._no_tls = self._tls.prepare(program)
                self._program = program
            return self._program

    def no_tls(self) -> str:
        """Why this host lets nobody look into TLS, empty if it does.

        Raises:
            AgentError: the kernel does not take the program.
        """
        self.prepare()
        return self._no_tls

    def attach(self, target: Target) -> None:
        """Begin to follow a target's requests, or follow it to the network namespace that it has now.

        Raises:
            AgentError: the container is on the host's network, where its requests cannot be told from others', or the kernel
                refuses it.
        """
        if target.host_network:
            raise AgentError(
                f"HTTP of container {target.name!r} is not monitored: it is on the host's network, "
                "where its requests cannot be told from others'"
            )
        program = self.prepare()
        try:
            with self._changing:
                target.ask_one(lambda pid: self._watch_by(program, target, pid))
        except ProcessLookupError:
            return
        except OSError as error:
            if target.name in self._targets:
                return  # it is about to end: the next time tells
            raise AgentError(
                f"HTTP of container {target.name!r} is not monitored: its network cannot be listened to: {error}"
            ) from error

    def _watch_by(self, program: Program, target: Target, pid: int) -> None:
        namespace = procfs.namespace(self._proc, pid, "net")
        watched = self._targets.get(target.name)
        if watched and watched.namespace == namespace:
            watched.follow_devices(self._proc, pid)
        else:
            watched = self._open(program, watched, namespace, pid)
            with self._lock:
                before, self._targets[target.name] = self._targets.get(target.name), watched
            if before:
                before.close()
        self._tls.attach(watched.number, target)

    def _open(self, program: Program, before: _Watched | None, namespace: int, pid: int) -> _Watched:
        """Follow a network namespace, which may be another one of a target that is watched already."""
        number = before.number if before else self._free_number()
        if not before:
            table = program["per_target"]
            for one in (number, number + _TARGETS):
                table.put(one, [[0] * _Figures.NUMBERS for _processor in table.get(one)])
            program["tls_unseen"].put(number, 0)
        watched = _Watched(number, namespace, Program("http_target", {}, {"TARGET": number}, maps_of=program))
        try:
            watched.follow_devices(self._proc, pid)
        except OSError:
            watched.close()
            raise
        return watched

    def programs(self) -> dict[str, Program | None]:
        """Return the loaded programs, by name."""
        return {"http": self._program, "tls": self._tls.program()}

    def suspend(self, name: str) -> None:
        """Let go of the network of a target, which has ended; what was counted waits for its return."""
        with self._changing:
            watched = self._targets.get(name)
            if watched is not None and watched.namespace != _NOWHERE:
                watched.close()
                watched.namespace = _NOWHERE

    def detach(self, name: str) -> None:
        """Stop following a target's requests and forget its counts."""
        with self._changing:
            watched = self._targets.get(name)
            if watched is None or self._program is None:
                return
            watched.close()
            self._tls.detach(watched.number)
            with self._lock:
                del self._targets[name]
                lost = sum(count for (number, _role), count in self._lost.items() if number % _TARGETS == watched.number)
                self._dropped_before += sum(one.dropped for one in self._both(watched.number)) + lost
                self._program["counts"].delete_those(lambda key: key[0] % _TARGETS == watched.number)
                self._program["connections"].delete_those(lambda key: key[-1] == watched.number)
                self._lost = Counter({key: count for key, count in self._lost.items() if key[0] % _TARGETS != watched.number})

    def figures(self) -> HttpFigures:
        """All that there is now, by one reading of each map."""
        with self._lock:
            names = self._names_of_targets()
            both = {name: self._both(watched.number) for name, watched in self._targets.items()}
            counts = self._entries("counts")
            dropped = sum(one.dropped for by_tls in both.values() for one in by_tls) + self._dropped_before + self._lost.total()
            return HttpFigures(
                counts={
                    (names[one % _TARGETS], _ROLES[role], _METHODS[method], str(code or "none"), _BY_TLS[one // _TARGETS]): sum(
                        count
                    )
                    for (one, code, role, method), count in counts
                    if one % _TARGETS in names
                },
                durations={
                    (name, role, tls): histogram
                    for name, by_tls in both.items()
                    for tls, figures in zip(_BY_TLS, by_tls, strict=True)
                    for role, histogram in zip(_ROLES, figures.durations, strict=True)
                    if any(histogram.slots)
                },
                unparsed={(name, reason): count for name, by_tls in both.items() for reason, count in _unparsed(by_tls).items()},
                in_flight={
                    (name, role_name): sum(
                        self._waiting(figures, self._targets[name].number + by_tls * _TARGETS, role)
                        for by_tls, figures in enumerate(both[name])
                    )
                    for name in both
                    for role, role_name in enumerate(_ROLES)
                },
                entries={"connections": self._connections, "secured": self._secured, "counts": len(counts), **self._tls.entries()},
                dropped=dropped,
            )

    def warnings(self, name: str) -> list[str]:
        """What of a target's HTTP cannot be followed: of now, and what was counted since it is watched."""
        with self._lock:
            watched = self._targets.get(name)
            if watched is None:
                return []
            unparsed = _unparsed(self._both(watched.number))
        told = [self._no_tls] if self._no_tls else self._tls.problems(watched.number)
        strangers = self._tls.strangers(watched.number)
        if count := unparsed.get("TLS", 0):
            who = f"processes: {', '.join(strangers)}" if strangers else "by whom is not known"
            told.append(f"TLS connections that could not be looked into, not being by OpenSSL's libssl: {count} ({who})")
        if count := unparsed.get("HTTP/2", 0):
            told.append(f"connections with HTTP/2, which is not followed: {count}")
        return told

    def give_up_on_old(self) -> None:
        """Count requests that have waited for their answer for a minute as never answered. Looks every few seconds at the most."""
        with self._lock:
            now = time.monotonic()
            if self._program is None or now - self._looked_for_old < _LOOK_EVERY:
                return
            self._looked_for_old = now
            numbers = [one for watched in self._targets.values() for one in (watched.number, watched.number + _TARGETS)]
            before = {number: self._figures_of(number) for number in numbers}
            before_these = (int(max(0.0, now - seconds) * 1e9) for seconds in (_UNANSWERED_AFTER, _TLS_UNTOLD_AFTER))
            asked = SWEEP.pack(*before_these, 0)
            self._connections = SWEEP.unpack(self._program.run("sweep", asked))[2]
            self._secured = self._tls.sweep(asked)
            for number in numbers:
                after = self._figures_of(number)
                for role in range(len(_ROLES)):
                    begun, _, swept_before = before[number].by_role[role]
                    _, ended, swept = after.by_role[role]
                    # Never more than there are: what has begun since is missing, what has ended since is not.
                    lost = begun - ended - (swept - swept_before)
                    self._lost[number, role] = max(self._lost[number, role], lost)

    def _both(self, number: int) -> tuple[_Figures, _Figures]:
        return self._figures_of(number), self._figures_of(number + _TARGETS)

    def _waiting(self, figures: _Figures, number: int, role: int) -> int:
        begun, ended, _swept = figures.by_role[role]
        return int(max(0, begun - ended - self._lost[number, role]))

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


def _unparsed(by_tls: tuple[_Figures, _Figures]) -> dict[str, int]:
    """What could not be followed, by reason."""
    sums = zip(_REASONS, *(figures.unparsed for figures in by_tls), strict=True)
    return {reason: sum(numbers) for reason, *numbers in sums if any(numbers)}
