"""HTTP inside TLS, read where processes of targets give it to OpenSSL's library, by uprobes (bpf/tls.c)."""

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

from chaosorca.agent.code import openssl
from chaosorca.agent.code.elf import Elf
from chaosorca.agent.ebpf.program import Program
from chaosorca.agent.ebpf.uprobes import Uprobes
from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.linux.btf import member_offsets
from chaosorca.agent.linux.identities import Identities
from chaosorca.agent.linux.proc import CodeFile, FileId
from chaosorca.agent.targets.target import Target
from chaosorca.model.errors import AgentError

SWEEP = struct.Struct("=QQQ")
_LOOK_EVERY = 0.5
_FOLDERS = ("lib", "usr/lib", "usr/lib/*", "usr/lib64", "usr/local/lib", "usr/local/lib64", "opt/*/lib")
"""Where images have the library: who uses it for a moment only is met by probes that are there before."""
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
"""Of the maps in bpf/tls.c."""
_COUNTED = ("tls_cgroups", "processes", "unprobed", "calls")
"""What is counted at each scrape; `secured` is large, and `sweep` tells of it."""
_GONE = (FileNotFoundError, ProcessLookupError)
_log = logging.getLogger("chaosorca.agent")


@dataclass
class _Watched:
    target: Target
    cgroups: set[int] = field(default_factory=set)
    processes: dict[int, tuple[int, frozenset[FileId]]] = field(default_factory=dict)
    """By number of each process how large it was when its files were looked at, and its TLS libraries."""
    first: int = 0
    """The process in whose root folder libraries were looked for,"""
    usual: frozenset[FileId] = frozenset()
    """and what was there."""
    trouble: str = ""
    """Why it is not followed, if it is not."""

    def files(self) -> set[FileId]:
        """Its TLS libraries."""
        return {file for _, files in self.processes.values() for file in files} | self.usual


class TlsProbes:
    """Puts probes on the TLS libraries of targets: on each file once, since containers of one image share it."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._lock = threading.RLock()
        self._uprobes: Uprobes | None = None
        self._looker: threading.Thread | None = None
        self._targets: dict[int, _Watched] = {}
        self._identities = Identities()
        self._attached: dict[FileId, Callable[[], None] | None] = {}
        self._problems: dict[FileId, str] = {}

    def prepare(self, http: Program) -> str:
        """Load the program, which shares the maps of that for packets; return why that cannot be done, empty if it can."""
        if self._program is not None:
            return ""
        if platform.machine() != "x86_64":
            return f"HTTPS is followed on x86-64 only, and this is {platform.machine()}"
        try:
            found = member_offsets(Path("/sys/kernel/btf/vmlinux").read_bytes(), {"sock_common": set(_OFFSETS.values())})
            offsets = {constant: found["sock_common"][member] for constant, member in _OFFSETS.items()}
        except (OSError, ValueError, KeyError):
            return "HTTPS is not followed: this kernel has no type information (BTF)"
        try:
            self._uprobes = Uprobes(lambda types: Program("tls", _LAYOUTS, offsets, types, maps_of=http), [_ON_CALL, _ON_RETURN])
        except AgentError as error:
            return f"HTTPS is not followed: {error}"
        return ""

    def attach(self, number: int, target: Target) -> None:
        """Follow a target's processes: now, and from now on by a thread of its own."""
        with self._lock:
            if self._program is None:
                return
            watched = self._targets.get(number)
            if watched is not None:
                watched.target = target
                return
            self._targets[number] = _Watched(target)
            self._look_at(number)
            if self._looker is None:
                self._looker = threading.Thread(target=self._keep_looking, name="tls", daemon=True)
                self._looker.start()

    def detach(self, number: int) -> None:
        """Give a target's probes up, and forget its connections."""
        with self._lock:
            watched = self._targets.pop(number, None)
            if watched is None or self._program is None:
                return
            for cgroup in watched.cgroups:
                self._program["tls_cgroups"].delete(cgroup)
            self._program["secured"].delete_those(lambda key: key[2] == number)
            self._program["unprobed"].delete_those(lambda key: key[0] == number)
            self._take_unused_away()

    def program(self) -> Program | None:
        """Return the loaded program, None before that."""
        return self._program

    def sweep(self, asked: bytes) -> int:
        """Give up on old requests; return how many connections there are."""
        return int(SWEEP.unpack(self._program.run("sweep_tls", asked))[2]) if self._program else 0

    def entries(self) -> dict[str, int]:
        """How many entries are in use, by map; those of connections are told by `sweep`."""
        return {table: len(self._program[table]) for table in _COUNTED} if self._program else {}

    def problems(self, number: int) -> list[str]:
        """What is wrong with following a target now, and with the libraries that its processes use."""
        with self._lock:
            watched = self._targets.get(number)
            if watched is None:
                return []
            return [watched.trouble] * bool(watched.trouble) + sorted(
                {self._problems[file] for file in watched.files() & self._problems.keys()}
            )

    def strangers(self, number: int) -> list[str]:
        """Names of a target's processes that have received by TLS and were never seen to call the library."""
        if self._program is None:
            return []
        return sorted({_text(name) for (target, _process), name in self._program["unprobed"].entries() if target == number})

    @property
    def _program(self) -> Program | None:
        return None if self._uprobes is None else self._uprobes.program

    @property
    def _prepared(self) -> Uprobes:
        if self._uprobes is None:
            raise AgentError("the program for TLS has not been loaded")
        return self._uprobes

    def _keep_looking(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY)
            for number in list(self._targets):
                try:
                    with self._lock:
                        if number in self._targets:
                            self._look_at(number)
                except Exception:
                    _log.exception("looking for TLS libraries")

    def _look_at(self, number: int) -> None:
        """Follow a target to its control groups, and put probes on what its processes have loaded since."""
        watched = self._targets[number]
        program = self._prepared.program
        now = set(watched.target.cgroup.ids()) - {1}  # 1 would be everybody's
        for cgroup in watched.cgroups - now:
            program["tls_cgroups"].delete(cgroup)
        watched.cgroups &= now
        watched.trouble = ""
        try:
            for cgroup in now - watched.cgroups:
                program["tls_cgroups"].put(cgroup, number)
                watched.cgroups.add(cgroup)
        except AgentError as error:
            watched.trouble = f"not all of its HTTPS is followed: {error}"
        pids = watched.target.pids()
        if pids and not now:
            watched.trouble = "HTTPS is not followed: the container has no control group of its own in the unified hierarchy"
        if watched.first and not pids and not now:  # it has ended
            watched.first, watched.usual = 0, frozenset()
            self._take_unused_away()
        if pids and watched.first not in pids:
            found = self._usual(pids[0])
            self._attach_all(found)
            watched.first, watched.usual = pids[0], frozenset(found)
        # Whoever has loaded a library has grown: only then are all of its files looked through.
        sizes = {pid: procfs.virtual_pages(self._proc, pid) for pid in pids}
        for pid, size in sizes.items():
            if size != watched.processes.get(pid, (0,))[0]:
                libraries = self._libraries(pid)
                self._attach_all(libraries)
                is_done = libraries.keys() <= self._attached.keys()
                watched.processes[pid] = (size if is_done else 0, frozenset(libraries))
        gone = [pid for pid in watched.processes if not sizes.get(pid)]
        for pid in gone:
            del watched.processes[pid]
        if gone:
            self._take_unused_away()

    def _usual(self, pid: int) -> dict[FileId, CodeFile]:
        """The TLS libraries in a process's root folder."""
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
        """The TLS libraries that a process has loaded."""
        return self._by_identity(one for one in procfs.code_files(self._proc, pid) if "libssl" in one.name)

    def _attach_all(self, libraries: dict[FileId, CodeFile]) -> None:
        for file in libraries.keys() - self._attached.keys():
            library = libraries[file]
            try:
                self._attached[file] = self._attach(library.path)
            except _GONE:
                continue
            except Exception as error:  # whatever is odd about a file of somebody else's
                self._attached[file] = None
                why = error.strerror if isinstance(error, OSError) else error
                self._problems[file] = f"HTTPS by {library.name} is not followed: no probes could be put on it: {why}"

    def _attach(self, path: Path) -> Callable[[], None] | None:
        """Put probes on the functions of a library; return what takes them away, None if it has none of them."""
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

    def _take_unused_away(self) -> None:
        used = set().union(*(watched.files() for watched in self._targets.values()))
        unused = self._attached.keys() - used
        closers = [close for close in map(self._attached.pop, unused) if close is not None]
        for file in unused:
            self._problems.pop(file, None)
        if closers:  # the kernel takes its time for that
            threading.Thread(target=lambda: [close() for close in closers], name="closer", daemon=True).start()


def _text(name: bytes) -> str:
    return name.split(b"\0", 1)[0].decode(errors="replace")
