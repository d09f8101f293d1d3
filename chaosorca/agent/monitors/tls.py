"""Monitors HTTP inside TLS. Uprobes on OpenSSL's library read the plaintext of targets' processes (bpf/tls.c)."""

from __future__ import annotations

import contextlib
import logging
import platform
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from chaosorca.agent import timeouts
from chaosorca.agent.code import openssl
from chaosorca.agent.code.elf import Elf
from chaosorca.agent.ebpf.program import Program
from chaosorca.agent.ebpf.uprobes import Uprobes
from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.linux.btf import member_offsets
from chaosorca.agent.linux.cgroups import ROOT_ID
from chaosorca.agent.linux.identities import Identities
from chaosorca.agent.linux.proc import CodeFile, FileId
from chaosorca.agent.targets.target import Target
from chaosorca.model.errors import AgentError

SWEEP = struct.Struct("=QQQ")
"""`struct sweep` of bpf/http_exchange.h: two times in nanoseconds since boot, and the number of connections."""
_FOLDERS = ("lib", "usr/lib", "usr/lib/*", "usr/lib64", "usr/local/lib", "usr/local/lib64", "opt/*/lib")
"""The folders in which images install the library. An installed library is probed before any process loads it, since a process may
use it only for a moment."""
_ON_CALL, _ON_RETURN = "on_call", "on_return"
_OFFSETS = {
    "SOCK_FAMILY": "skc_family",
    "SOCK_V6_DADDR": "skc_v6_daddr",
    "SOCK_V6_RCV_SADDR": "skc_v6_rcv_saddr",
}
_LAYOUTS = {
    "tls_cgroups": ("=Q", "=I"),
    "secured": ("=QII", "=416s"),
    "processes": ("=I", "=I"),
    "unprobed": ("=II", "=16s"),
    "calls": ("=I", "=QQQQQIHH"),
}
"""The layouts of the maps in bpf/tls.c."""
_COUNTED = ("tls_cgroups", "processes", "unprobed", "calls")
"""The maps whose entries are counted at each scrape. The map `secured` is large, so its entries are counted only by `sweep`."""
_GONE = (FileNotFoundError, ProcessLookupError)
_log = logging.getLogger("chaosorca.agent")


@dataclass
class _Monitored:
    """A target, with its control groups and TLS libraries."""

    target: Target
    cgroups: set[int] = field(default_factory=set)
    processes: dict[int, tuple[int, frozenset[FileId]]] = field(default_factory=dict)
    """For each process, its size in virtual pages and its TLS libraries, as of the last time that its mapped files were read."""
    root_pid: int = 0
    """The process whose root directory was searched for libraries."""
    installed: frozenset[FileId] = frozenset()
    """The TLS libraries in the root directory of `root_pid`."""
    problem: str = ""
    """The reason why HTTPS of the target is not monitored; empty if it is monitored."""

    def files(self) -> set[FileId]:
        """Return the target's TLS libraries."""
        return {file for _, files in self.processes.values() for file in files} | self.installed


class TlsProbes:
    """Attaches probes to the TLS libraries of targets. Each file is probed only once, since containers of one image share files."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._uprobes: Uprobes | None = None
        self._lock = threading.RLock()  # guards all of the following; `HttpMonitor` takes `_changing` before this lock
        self._poller: threading.Thread | None = None
        self._targets: dict[int, _Monitored] = {}
        self._identities = Identities()
        # For each file, a function that detaches the file's probes; None if the file has no probes.
        self._attached: dict[FileId, Callable[[], None] | None] = {}
        self._problems: dict[FileId, str] = {}

    def prepare(self, http: Program) -> str:
        """Load the program.

        Arguments:
            http: the program that parses packets. The program for TLS shares its maps.

        Returns:
            the reason why HTTPS cannot be monitored; empty if it can.
        """
        if self._program is not None:
            return ""
        if platform.machine() != "x86_64":
            return f"HTTPS is monitored on x86-64 only, and this host is {platform.machine()}"
        try:
            found = member_offsets(Path("/sys/kernel/btf/vmlinux").read_bytes(), {"sock_common": set(_OFFSETS.values())})
            offsets = {constant: found["sock_common"][member] for constant, member in _OFFSETS.items()}
        except (OSError, ValueError, KeyError):
            return "HTTPS is not monitored: this kernel has no type information (BTF)"
        try:
            self._uprobes = Uprobes(lambda types: Program("tls", _LAYOUTS, offsets, types, maps_of=http), [_ON_CALL, _ON_RETURN])
        except AgentError as error:
            return f"HTTPS is not monitored: {error}"
        return ""

    def attach(self, number: int, target: Target) -> None:
        """Start to monitor a target. A thread then polls for new libraries and control groups.

        Arguments:
            number: the target's number in the kernel.
            target: the target. It replaces an earlier target of the same number.
        """
        with self._lock:
            if self._program is None:
                return
            monitored = self._targets.get(number)
            if monitored is not None:
                monitored.target = target
                return
            self._targets[number] = _Monitored(target)
            self._update(number)
            if self._poller is None:
                self._poller = threading.Thread(target=self._poll, name="tls", daemon=True)
                self._poller.start()

    def detach(self, number: int) -> None:
        """Stop monitoring a target, and delete its connections."""
        with self._lock:
            monitored = self._targets.pop(number, None)
            if monitored is None or self._program is None:
                return
            for cgroup in monitored.cgroups:
                self._program["tls_cgroups"].delete(cgroup)
            self._program["secured"].delete_those(lambda key: key[2] == number)
            self._program["unprobed"].delete_those(lambda key: key[0] == number)
            self._detach_unused()

    def program(self) -> Program | None:
        """Return the loaded program; None before it is loaded."""
        return self._program

    def sweep(self, request: bytes) -> int:
        """Give up on requests that are too old, and return the number of connections.

        Arguments:
            request: the input of the eBPF program, packed by `SWEEP`.
        """
        return int(SWEEP.unpack(self._program.run("sweep_tls", request))[2]) if self._program else 0

    def entries(self) -> dict[str, int]:
        """Return the number of used entries of each map. Connections are left out, because `sweep` counts them."""
        return {table: len(self._program[table]) for table in _COUNTED} if self._program else {}

    def problems(self, number: int) -> list[str]:
        """Return the reasons why a target or some of its libraries are not monitored at present."""
        with self._lock:
            monitored = self._targets.get(number)
            if monitored is None:
                return []
            files = monitored.files() & self._problems.keys()
            return [monitored.problem] * bool(monitored.problem) + sorted({self._problems[file] for file in files})

    def unprobed(self, number: int) -> list[str]:
        """Return the names of a target's processes that have received TLS packets, but have never called a probed library."""
        if self._program is None:
            return []
        return sorted({_text(name) for (target, _process), name in self._program["unprobed"].entries() if target == number})

    @property
    def _program(self) -> Program | None:
        return None if self._uprobes is None else self._uprobes.program

    @property
    def _prepared(self) -> Uprobes:
        if self._uprobes is None:
            raise AgentError("the eBPF program for TLS is not loaded: prepare it first")
        return self._uprobes

    def _poll(self) -> None:
        while True:
            time.sleep(timeouts.TLS_LIBRARIES_POLLED_EVERY)
            for number in list(self._targets):
                try:
                    with self._lock:
                        if number in self._targets:
                            self._update(number)
                except Exception:
                    _log.exception("cannot look for TLS libraries")

    def _update(self, number: int) -> None:
        """Register a target's current control groups, and probe libraries that its processes have loaded since the last call."""
        monitored = self._targets[number]
        now = set(monitored.target.cgroup.ids()) - {ROOT_ID}
        self._update_cgroups(monitored, number, now)
        pids = monitored.target.pids()
        if pids and not now:
            monitored.problem = "HTTPS is not monitored: the container has no control group of its own in the unified hierarchy"
        if monitored.root_pid and not pids and not now:  # the container has ended
            monitored.root_pid, monitored.installed = 0, frozenset()
            self._detach_unused()
        if pids and monitored.root_pid not in pids:
            found = self._installed(pids[0])
            self._attach_all(found)
            monitored.root_pid, monitored.installed = pids[0], frozenset(found)
        # Reading the mapped files of a process is expensive. It is done only when the size of the process has changed, because
        # loading a library increases this size.
        sizes = {pid: procfs.virtual_pages(self._proc, pid) for pid in pids}
        for pid, size in sizes.items():
            if size != monitored.processes.get(pid, (0,))[0]:
                libraries = self._libraries(pid)
                self._attach_all(libraries)
                is_done = libraries.keys() <= self._attached.keys()
                monitored.processes[pid] = (size if is_done else 0, frozenset(libraries))
        gone = [pid for pid in monitored.processes if not sizes.get(pid)]
        for pid in gone:
            del monitored.processes[pid]
        if gone:
            self._detach_unused()

    def _update_cgroups(self, monitored: _Monitored, number: int, now: set[int]) -> None:
        table = self._prepared.program["tls_cgroups"]
        for cgroup in monitored.cgroups - now:
            table.delete(cgroup)
        monitored.cgroups &= now
        monitored.problem = ""
        try:
            for cgroup in now - monitored.cgroups:
                table.put(cgroup, number)
                monitored.cgroups.add(cgroup)
        except AgentError as error:
            monitored.problem = f"HTTPS is not monitored completely: {error}"

    def _installed(self, pid: int) -> dict[FileId, CodeFile]:
        """Return the TLS libraries in a process's root directory."""
        root = self._proc / str(pid) / "root"
        with contextlib.suppress(OSError):
            return self._by_identity(
                CodeFile((0, 0), f"/{path.relative_to(root)}", path)
                for folder in _FOLDERS
                for path in root.glob(f"{folder}/libssl*")
                if not path.is_symlink() and path.is_file()
            )
        return {}

    def _libraries(self, pid: int) -> dict[FileId, CodeFile]:
        """Return the TLS libraries that a process has loaded."""
        return self._by_identity(one for one in procfs.code_files(self._proc, pid) if "libssl" in one.name)

    def _attach_all(self, libraries: dict[FileId, CodeFile]) -> None:
        for file in libraries.keys() - self._attached.keys():
            library = libraries[file]
            try:
                self._attached[file] = self._attach(library.path)
            except _GONE:
                continue
            except Exception as error:  # a container's files may be malformed in any way
                self._attached[file] = None
                why = error.strerror if isinstance(error, OSError) else error
                self._problems[file] = f"HTTPS by {library.name} is not monitored: the library cannot be probed: {why}"

    def _attach(self, path: Path) -> Callable[[], None] | None:
        """Attach probes to the functions of a library.

        Returns:
            a function that detaches the probes; None if the library has none of the functions.
        """
        found = openssl.places(Elf(path.read_bytes()))
        if not found:
            return None
        calls = [(place.offset, place.cookie) for place in found]
        returns = [(place.offset, 0) for place in found if place.returns]
        with contextlib.ExitStack() as attached:
            attached.callback(self._prepared.attach(_ON_RETURN, path, returns, at_return=True))
            attached.callback(self._prepared.attach(_ON_CALL, path, calls))
            return attached.pop_all().close

    def _by_identity(self, files: Iterable[CodeFile]) -> dict[FileId, CodeFile]:
        found = {}
        for one in files:
            with contextlib.suppress(OSError):
                found[self._identities.of(one.path, self._attached.__contains__)] = one
        return found

    def _detach_unused(self) -> None:
        """Detach the probes from files that no target uses."""
        used = set().union(*(monitored.files() for monitored in self._targets.values()))
        unused = self._attached.keys() - used
        closers = [close for close in map(self._attached.pop, unused) if close is not None]
        for file in unused:
            self._problems.pop(file, None)
        if closers:  # in a thread, since the kernel detaches slowly and callers hold locks
            threading.Thread(target=lambda: [close() for close in closers], name="closer", daemon=True).start()


def _text(name: bytes) -> str:
    return name.split(b"\0", 1)[0].decode(errors="replace")
