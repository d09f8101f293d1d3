"""Monitors the HTTP/1.x messages of each target.

A socket filter in the target's network namespace parses packets in the kernel (bpf/http.c). Plaintext inside TLS comes from tls.py.
Each target has two numbers in the kernel: one for plain HTTP, and a number higher by `_TARGETS` for HTTP inside TLS.
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

from chaosorca.agent import timeouts
from chaosorca.agent.ebpf.program import Program
from chaosorca.agent.histogram import SLOTS, Histogram
from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.linux.packet_socket import PacketSocket
from chaosorca.agent.monitors.tls import SWEEP, TlsProbes
from chaosorca.agent.targets.target import Target
from chaosorca.model.errors import AgentError


class _Figures:
    """The kernel's figures of a target, summed over the processors: `struct figures` of bpf/http_exchange.h."""

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
_TARGETS = 512
_NO_NAMESPACE = 0
"""The namespace number of a target that is not running."""
_LAYOUTS = {
    "connections": ("=4Q2HI", "=424s"),
    "counts": ("=IHBB", "=Q"),
    "per_target": ("=I", f"={_Figures.NUMBERS}Q"),
    "parser": ("=I", "=I"),
    "tls_unseen": ("=I", "=Q"),
}
"""The layouts of the maps in bpf/http.c and bpf/http_exchange.h."""
_BY_TLS = ["false", "true"]


@dataclass(frozen=True)
class HttpFigures:
    """The figures of all targets.

    Attributes:
        counts: the number of requests by container, role, method, code and TLS. The code of unanswered requests is `none`. TLS is
            `true` or `false`.
        durations: the latencies by container, role and TLS.
        unparsed: the number of messages and connections that could not be parsed, by container and reason.
        in_flight: the number of requests that are not answered yet, by container and role.
        entries: the number of used entries of each map. Connections are counted only by the sweep.
        dropped: the number of events that were lost because a map was full or another processor had locked the connection.
    """

    counts: dict[tuple[str, str, str, str, str], int]
    durations: dict[tuple[str, str, str], Histogram]
    unparsed: dict[tuple[str, str], int]
    in_flight: dict[tuple[str, str], int]
    entries: dict[str, int]
    dropped: int


@dataclass
class _Monitored:
    """A target, with its number in the kernel, its network namespace and its filter. Each network device has a socket."""

    number: int
    namespace: int
    filter: Program
    sockets: dict[str, PacketSocket] = field(default_factory=dict)

    def update_sockets(self, proc: Path, pid: int) -> None:
        """Open a socket on each new device of the network namespace, and close the sockets of removed devices."""
        names = procfs.network_devices(proc, pid)
        for name in [name for name, one in self.sockets.items() if name not in names or not one.is_current()]:
            self.sockets.pop(name).close()
        for name in names - self.sockets.keys():
            try:
                self.sockets[name] = PacketSocket(proc / str(pid) / "ns" / "net", name, self.filter.fd("http_target"))
            except OSError as error:
                if error.errno != errno.ENODEV:  # the device may have been removed meanwhile
                    raise

    def close(self) -> None:
        """Detach the filter from all devices."""
        for one in self.sockets.values():
            one.close()
        self.filter.close()


class HttpMonitor:
    """Counts and times HTTP requests.

    One program parses the packets of all targets. Each target has a filter that passes the target's number to the program.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._tls = TlsProbes(proc)
        self._preparing = threading.Lock()  # guards `_no_tls` and the loading of `_program`
        self._program: Program | None = None
        self._no_tls = ""
        # `_changing` is held for every change of `_targets`, even while libraries are read. It is taken before `_lock`.
        self._changing = threading.Lock()
        self._lock = threading.Lock()  # guards all of the following; held only briefly, since scrapes wait for it
        self._targets: dict[str, _Monitored] = {}
        self._lost: Counter[tuple[int, int]] = Counter()  # unanswered requests of vanished connections, by target number and role
        self._dropped_before = 0  # lost events of targets that are no longer monitored
        self._connections = self._secured = 0  # numbers of connections at the last sweep
        self._last_sweep = 0.0

    def prepare(self) -> Program:
        """Load the program unless it is loaded already, and return it.

        Raises:
            AgentError: the kernel refuses the program.
        """
        with self._preparing:
            if self._program is None:
                program = Program("http", _LAYOUTS)
                program["parser"].put(0, program.fd("http"))
                self._no_tls = self._tls.prepare(program)
                self._program = program
            return self._program

    def no_tls(self) -> str:
        """Return why HTTPS cannot be monitored on this host; empty if it can.

        Raises:
            AgentError: the kernel refuses the program.
        """
        self.prepare()
        return self._no_tls

    def attach(self, target: Target) -> None:
        """Start to monitor a target. If it is monitored already, attach to its current network namespace.

        Raises:
            AgentError: the kernel refuses the program or a socket. The error is also raised for a container on the host's network,
                because its requests cannot be distinguished from others.
        """
        if target.host_network:
            raise AgentError(
                f"HTTP of container {target.name!r} is not monitored: it is on the host's network, "
                "where its requests cannot be distinguished from others"
            )
        program = self.prepare()
        try:
            with self._changing:
                target.ask_one(lambda pid: self._attach_by(program, target, pid))
        except ProcessLookupError:
            return
        except OSError as error:
            if target.name in self._targets:
                return  # the container is probably ending, and `attach` will be called again
            raise AgentError(
                f"HTTP of container {target.name!r} is not monitored: the agent cannot listen on its network: {error}"
            ) from error

    def _attach_by(self, program: Program, target: Target, pid: int) -> None:
        """Attach to the network namespace of the given process of a target."""
        namespace = procfs.namespace(self._proc, pid, "net")
        monitored = self._targets.get(target.name)
        if monitored and monitored.namespace == namespace:
            monitored.update_sockets(self._proc, pid)
        else:
            monitored = self._open(program, monitored, namespace, pid)
            with self._lock:
                before, self._targets[target.name] = self._targets.get(target.name), monitored
            if before:
                before.close()
        self._tls.attach(monitored.number, target)

    def _open(self, program: Program, before: _Monitored | None, namespace: int, pid: int) -> _Monitored:
        """Attach a filter to a network namespace. A target that was monitored before keeps its number and counts."""
        number = before.number if before else self._free_number()
        if not before:
            table = program["per_target"]
            for one in (number, number + _TARGETS):
                table.put(one, [[0] * _Figures.NUMBERS for _processor in table.get(one)])
            program["tls_unseen"].put(number, 0)
        monitored = _Monitored(number, namespace, Program("http_target", {}, {"TARGET": number}, maps_of=program))
        try:
            monitored.update_sockets(self._proc, pid)
        except OSError:
            monitored.close()
            raise
        return monitored

    def programs(self) -> dict[str, Program | None]:
        """Return the programs by name. A program that is not loaded is None."""
        return {"http": self._program, "tls": self._tls.program()}

    def suspend(self, name: str) -> None:
        """Detach from the network of a target that has ended. The target's counts are kept in case it restarts."""
        with self._changing:
            monitored = self._targets.get(name)
            if monitored is not None and monitored.namespace != _NO_NAMESPACE:
                monitored.close()
                monitored.namespace = _NO_NAMESPACE

    def detach(self, name: str) -> None:
        """Stop monitoring a target, and delete its counts."""
        with self._changing:
            monitored = self._targets.get(name)
            if monitored is None or self._program is None:
                return
            monitored.close()
            self._tls.detach(monitored.number)
            with self._lock:
                del self._targets[name]
                lost = sum(count for (number, _role), count in self._lost.items() if number % _TARGETS == monitored.number)
                self._dropped_before += sum(one.dropped for one in self._both(monitored.number)) + lost
                self._program["counts"].delete_those(lambda key: key[0] % _TARGETS == monitored.number)
                self._program["connections"].delete_those(lambda key: key[-1] == monitored.number)
                self._lost = Counter({key: count for key, count in self._lost.items() if key[0] % _TARGETS != monitored.number})

    def figures(self) -> HttpFigures:
        """Return the current figures of all targets. Each map is read once."""
        with self._lock:
            names = self._names_of_targets()
            both = {name: self._both(monitored.number) for name, monitored in self._targets.items()}
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
                        self._in_flight(figures, self._targets[name].number + by_tls * _TARGETS, role)
                        for by_tls, figures in enumerate(both[name])
                    )
                    for name in both
                    for role, role_name in enumerate(_ROLES)
                },
                entries={"connections": self._connections, "secured": self._secured, "counts": len(counts), **self._tls.entries()},
                dropped=dropped,
            )

    def warnings(self, name: str) -> list[str]:
        """Return a warning for each part of a target's HTTP that is not monitored now, or was not monitored earlier."""
        with self._lock:
            monitored = self._targets.get(name)
            if monitored is None:
                return []
            unparsed = _unparsed(self._both(monitored.number))
        warnings = [self._no_tls] if self._no_tls else self._tls.problems(monitored.number)
        processes = self._tls.unprobed(monitored.number)
        if count := unparsed.get("TLS", 0):
            where = f"processes: {', '.join(processes)}" if processes else "processes unknown"
            warnings.append(f"TLS connections that do not use OpenSSL's libssl and are not monitored: {count} ({where})")
        if count := unparsed.get("HTTP/2", 0):
            warnings.append(f"HTTP/2 connections, which are not monitored: {count}")
        return warnings

    def give_up_on_old(self) -> None:
        """Give up on requests and connections that are too old. At most one sweep runs every few seconds.

        A request that has waited too long is counted as unanswered. A TLS connection whose plaintext was never seen is counted as
        unparsed.
        """
        with self._lock:
            now = time.monotonic()
            if self._program is None or now - self._last_sweep < timeouts.SWEEP_EVERY:
                return
            self._last_sweep = now
            numbers = [one for monitored in self._targets.values() for one in (monitored.number, monitored.number + _TARGETS)]
            before = {number: self._figures_of(number) for number in numbers}
            limits = (timeouts.REQUEST_UNANSWERED_AFTER, timeouts.TLS_UNSEEN_AFTER)
            request = SWEEP.pack(*(int(max(0.0, now - seconds) * 1e9) for seconds in limits), 0)
            self._connections = SWEEP.unpack(self._program.run("sweep", request))[2]
            self._secured = self._tls.sweep(request)
            for number in numbers:
                after = self._figures_of(number)
                for role in range(len(_ROLES)):
                    begun, _, swept_before = before[number].by_role[role]
                    _, ended, swept = after.by_role[role]
                    # The sweep finds each request in flight whose connection exists. All other requests in flight are lost. The
                    # number of lost requests is a lower bound: `begun` leaves out requests that begin during the sweep, and
                    # `ended` includes requests that end during the sweep.
                    lost = begun - ended - (swept - swept_before)
                    self._lost[number, role] = max(self._lost[number, role], lost)

    def _both(self, number: int) -> tuple[_Figures, _Figures]:
        return self._figures_of(number), self._figures_of(number + _TARGETS)

    def _in_flight(self, figures: _Figures, number: int, role: int) -> int:
        begun, ended, _swept = figures.by_role[role]
        return int(max(0, begun - ended - self._lost[number, role]))

    def _figures_of(self, number: int) -> _Figures:
        none = [[0] * _Figures.NUMBERS]
        return _Figures(none if self._program is None else self._program["per_target"].get(number))

    def _free_number(self) -> int:
        used = {monitored.number for monitored in self._targets.values()}
        number = next(number for number in itertools.count() if number not in used)
        if number >= _TARGETS:
            raise AgentError(
                f"the HTTP of {_TARGETS} containers is monitored already: stop the monitoring of another container first"
            )
        return number

    def _entries(self, table: str) -> list[Any]:
        """Return a map's keys and values; empty before the program is loaded."""
        return [] if self._program is None else self._program[table].entries()

    def _names_of_targets(self) -> dict[int, str]:
        return {monitored.number: name for name, monitored in self._targets.items()}


def _unparsed(by_tls: tuple[_Figures, _Figures]) -> dict[str, int]:
    """Return the number of messages and connections that could not be parsed, by reason."""
    sums = zip(_REASONS, *(figures.unparsed for figures in by_tls), strict=True)
    return {reason: sum(numbers) for reason, *numbers in sums if any(numbers)}
