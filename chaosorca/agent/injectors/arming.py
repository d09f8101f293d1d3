"""Uprobes that arm threads (bpf/arm.c): the program, its rules, and the probes on files, for all targets of the host.

A program is loaded once. Probes belong to files, which containers of one image share; rules belong to control groups.
"""

from __future__ import annotations

import gc
import mmap
import platform
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from chaosorca.agent.code.callers import numbers_passed, syscall_function
from chaosorca.agent.code.elf import Elf
from chaosorca.agent.code.sites import Site, find_sites
from chaosorca.agent.ebpf.program import Program
from chaosorca.agent.ebpf.uprobes import Uprobes
from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.linux.btf import member_offsets
from chaosorca.agent.linux.identities import Identities
from chaosorca.agent.linux.proc import FileId
from chaosorca.model.errors import AgentError

SIGNALS = (23, 28)
"""SIGURG and SIGWINCH, which do nothing to a program that nobody traces; the second is for threads that have blocked the first, and
is sent only where there is no handler for it."""

_OFFSETS = {
    "TASK_PID": ("task_struct", "pid"),
    "TASK_TGID": ("task_struct", "tgid"),
    "TASK_START": ("task_struct", "start_time"),
    "TASK_PARENT": ("task_struct", "parent"),
    "TASK_PTRACE": ("task_struct", "ptrace"),
    "TASK_BLOCKED": ("task_struct", "blocked"),
    "TASK_SIGHAND": ("task_struct", "sighand"),
    "SIGHAND_ACTION": ("sighand_struct", "action"),
}
_LAYOUTS = {
    "armed_cgroups": ("=Q", "=I"),
    "rules": ("=II", "=6IQQ"),
    "armed": ("=I", "=IIQQQII32x8x64x"),
    "seen": ("=II", "=Q"),
    "blocked": ("=II", "=Q"),
    "untraced": ("=II", "=Q"),
    "syscall_stops": ("=I", "=B"),
    "tracers": ("=I", "=B"),
    "new_code": ("=I", "=Q"),
    "dropped": ("=I", "=Q"),
}
"""Of the maps in bpf/arm.c."""

_MMAP = 9
_UNKNOWN_NR = 0xFFFF
_ANY_NR = 0x10000  # of those in the C library's `syscall()`
_REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *(f"r{number}" for number in range(8, 16)), "rsp")
_IN_MEMORY, _IS_EARLY, _HAS_CONDITION, _HAS_DETOUR = 1 << 60, 1 << 61, 1 << 62, 1 << 63
_FUNCTION = "at_site"
_KEPT_FOR = 1.0
_LARGEST = 192 << 20
_CLOSED_AT_ONCE = 16
_MOST_KNOWN = 4096  # files: each container that is made anew brings its own
_NOBODY = 0
_GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True)
class ArmRule:
    """What the kernel has to know of a fault; see `struct rule`."""

    key: int
    decided_by_tracer: bool
    first: int
    last: int
    step: int
    threshold: int
    seed: int


@dataclass(frozen=True)
class _Code:
    """What is known of a file's code: where it makes system calls, and what speaks against it that these are all."""

    sites: tuple[Site, ...]
    problem: str
    by_syscall_function: frozenset[int] | None = frozenset()
    """The system calls that it makes by the C library's `syscall()`; None if that cannot be told."""
    syscall_function: range = range(0)
    """Where in the file that function is, if it is there."""


class Arming:
    """Loads the program when it is first needed, and keeps its maps and probes."""

    def __init__(self, proc: Path = Path("/proc"), one_by_one: bool = False) -> None:
        """
        Arguments:
            one_by_one: put each probe on its place as a perf event of its own, as it has to be before Linux 6.6.
        """
        self._proc = proc
        self._one_by_one = one_by_one
        self._lock = threading.RLock()
        self._uprobes: Uprobes | None = None
        self._identities = Identities()
        self._known: dict[FileId, tuple[tuple[int, int, int], _Code]] = {}
        self._links: dict[tuple[FileId, int], Callable[[], None] | None] = {}
        self._users: dict[tuple[FileId, int], set[int]] = {}

    def prepare(self) -> None:
        """Load the program, if that has not been done.

        Raises:
            AgentError: this machine or kernel cannot do it; the sentence says what is missing.
        """
        with self._lock:
            if self._uprobes is not None:
                return
            if platform.machine() != "x86_64":
                raise AgentError(f"uprobes arm threads on x86-64 only, and this is {platform.machine()}")
            if procfs.command_name(self._proc, 2) != "kthreadd":
                raise AgentError(
                    "the engine runs in a container itself, where eBPF programs have other numbers for threads than the agent"
                )
            wanted = {structure: {m for s, m in _OFFSETS.values() if s == structure} for structure, _ in _OFFSETS.values()}
            try:
                found = member_offsets(Path("/sys/kernel/btf/vmlinux").read_bytes(), wanted)
                offsets = {macro: found[structure][member] for macro, (structure, member) in _OFFSETS.items()}
            except (OSError, ValueError, KeyError):
                raise AgentError("this kernel has no type information (BTF), which says where a thread's state is") from None
            constants = {"SIGNAL": SIGNALS[0], "OTHER_SIGNAL": SIGNALS[1], "NR_MMAP": _MMAP, "PROT_EXEC": mmap.PROT_EXEC}
            self._uprobes = Uprobes(
                lambda types: Program("arm", _LAYOUTS, offsets | constants, types), [_FUNCTION], self._one_by_one
            )

    def program(self) -> Program | None:
        """What is loaded, for what it costs; None before that."""
        return None if self._uprobes is None else self._uprobes.program

    @property
    def _program(self) -> Program:
        return self._prepared.program

    @property
    def _prepared(self) -> Uprobes:
        if self._uprobes is None:
            raise AgentError("the program that arms threads has not been loaded")
        return self._uprobes

    def armed_map(self) -> int | None:
        """The number of the map of armed threads."""
        return self._program["armed"].id()

    def set_cgroups(self, number: int, before: Collection[int], now: Collection[int]) -> None:
        """Have a target's control groups be known by its number."""
        table = self._program["armed_cgroups"]
        for cgroup in set(before) - set(now):
            table.delete(cgroup)
        for cgroup in set(now) - set(before):
            table.put(cgroup, number)

    def set_rule(self, number: int, numbers: Collection[int], rule: ArmRule) -> None:
        """Have a target's calls of these numbers arm whoever makes them."""
        value = (rule.key, rule.decided_by_tracer, rule.first, rule.last, rule.step, 0, rule.threshold, rule.seed)
        for nr in numbers:
            self._program["rules"].put((number, nr), value)

    def drop_rule(self, number: int, numbers: Collection[int]) -> None:
        """Have them arm nobody."""
        for nr in numbers:
            self._program["rules"].delete((number, nr))

    def armed_by(self, key: int) -> int:
        """How many threads a rule has armed that have not met their tracer yet."""
        return sum(1 for _, (rule, *_) in self._program["armed"].entries() if rule == key)

    def seen(self, number: int) -> dict[int, int]:
        """How many calls of a target's faulted system calls the probes have seen, by number."""
        return self._counted("seen", number)

    def new_code(self, number: int) -> int:
        """How often a target has mapped code so far."""
        return self._program["new_code"].get(number) or 0

    def set_syscall_stops(self, tid: int, on: bool) -> None:
        """Note whether the tracer stops a thread at each call, which is then not armed. The kernel drops the note when it ends."""
        table = self._program["syscall_stops"]
        if on:
            table.put(tid, 1)
        else:
            table.delete(tid)

    def has_syscall_stops(self, tid: int) -> bool:
        """Whether the tracer stops a thread at each call."""
        return self._program["syscall_stops"].get(tid) is not None

    def blocked(self, number: int) -> dict[int, int]:
        """How many of them were let pass because the thread had blocked the signal, by number."""
        return self._counted("blocked", number)

    def untraced(self, number: int) -> dict[int, int]:
        """How many of them were let pass because no tracer of ours had the thread, by number."""
        return self._counted("untraced", number)

    def _counted(self, table: str, number: int) -> dict[int, int]:
        return {nr: count for (target, nr), count in self._program[table].entries() if target == number}

    def reset_untraced(self, number: int) -> None:
        """Count those anew that were let pass because no tracer of ours had the thread."""
        self._program["untraced"].delete_those(lambda key: key[0] == number)

    def register_tracer(self, pid: int) -> None:
        """Threads that this process traces may be armed, until it ends."""
        self._program["tracers"].put(pid, 1)

    def forget(self, number: int) -> None:
        """Drop what was counted for a target."""
        for name in ("seen", "blocked", "untraced"):
            self._program[name].delete_those(lambda key: key[0] == number)

    def cannot(self, pids: Collection[int]) -> str:
        """Why not all system calls of processes can be met by probes; empty if they can."""
        for path, file in self._files(pids):
            problem = self._code(path, file).problem
            if problem:
                return f"{_shown(path)} {problem}"
        return ""

    def try_out(self, pids: Collection[int], numbers: Collection[int]) -> None:
        """Put probes where a fault would have them, for a moment.

        Raises:
            AgentError: the kernel refuses one.
        """
        try:
            self.probe(_NOBODY, pids, numbers)
        finally:
            self.release(_NOBODY)

    def probe(self, user: int, pids: Collection[int], numbers: Collection[int]) -> None:
        """Put probes on all sites of these system calls in the files that processes execute, for a user of them.

        Raises:
            AgentError: the kernel refuses one; those that it has taken are there until they are released.
        """
        files = self._files(pids)
        passed = [self._code(path, file).by_syscall_function for path, file in files]
        by_function = any(one is None or not one.isdisjoint({*numbers, _MMAP}) for one in passed)
        for path, file in files:
            self._probe_file(user, path, file, [*numbers, _MMAP, _UNKNOWN_NR, *([_ANY_NR] if by_function else [])])

    def release(self, user: int, numbers: Collection[int] | None = None) -> None:
        """Give a user's probes up, of some system calls or all.

        They arm nobody any more, and are taken away a moment later if nobody else wants them until then: the kernel takes its time
        for that, and a place must not have two probes meanwhile.
        """
        with self._lock:
            for at, users in self._users.items():
                if user in users and (numbers is None or at[1] in numbers):
                    users.discard(user)
        threading.Timer(_KEPT_FOR, self._close_unused).start()

    def _files(self, pids: Collection[int]) -> list[tuple[Path, FileId]]:
        """One for each, or a place would have two probes, and each of its calls would count twice."""
        mapped = {one.id: one for pid in reversed(list(pids)) for one in procfs.code_files(self._proc, pid)}
        found: dict[FileId, Path] = {}
        for one in mapped.values():
            try:
                found[self._identities.of(one.path, self._has_probes)] = one.path
            except OSError:  # it is gone, or what `_code` says of it
                found[one.id] = one.path
        return [(path, file) for file, path in found.items()]

    def _has_probes(self, file: FileId) -> bool:
        return (file, _MMAP) in self._links

    def _code(self, path: Path, file: FileId) -> _Code:
        with self._lock:
            try:
                status = path.stat()
                # An inode's number is used again: a probe at another file's offsets would destroy it.
                version = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                known = self._known.pop(file, None)
                if known is None or known[0] != version:
                    known = (version, _read_code(path, status.st_size))
                self._known[file] = known  # the last one now
                while len(self._known) > _MOST_KNOWN:
                    del self._known[next(iter(self._known))]
            except _GONE:
                return _Code((), "")
            except OSError as error:
                return _Code((), f"cannot be opened by the agent: {error.strerror}", None)
            return known[1]

    def _probe_file(self, user: int, path: Path, file: FileId, numbers: Collection[int]) -> None:
        with self._lock:
            for nr in numbers:
                at = (file, nr)
                if at not in self._links:
                    code = self._code(path, file)
                    sites = [site for site in code.sites if _group(site, code) == nr]
                    try:
                        places = [(site.offset, _cookie(site)) for site in sites]
                        self._links[at] = self._prepared.attach(_FUNCTION, path, places) if places else None
                    except _GONE:
                        return
                    except OSError as error:
                        raise AgentError(f"no probe could be put on {_shown(path)}: {error.strerror}") from error
                self._users.setdefault(at, set()).add(user)

    def _close_unused(self) -> None:
        with self._lock:
            unused = [at for at, users in self._users.items() if not users]
            links = [link for link in map(self._links.pop, unused) if link is not None]
            for at in unused:
                del self._users[at]
            # The kernel waits a while before a probe is gone: for all of them at the same time.
            with ThreadPoolExecutor(_CLOSED_AT_ONCE) as threads:
                list(threads.map(lambda close: close(), links))


def _number(site: Site) -> int:
    return _UNKNOWN_NR if site.nr is None else site.nr


def _group(site: Site, code: _Code) -> int:
    return _ANY_NR if site.nr is None and site.offset in code.syscall_function else _number(site)


def _cookie(site: Site) -> int:
    """What the program is told of a site; see bpf/arm.c."""
    told = _number(site) | (site.to_syscall & 0xFFFF) << 16
    if site.detour is not None and site.condition is not None:
        begin, detour = site.to_syscall if site.to_next is None else site.to_next, site.detour
        is_far = begin not in range(0x100)  # one of both is right behind the probe
        near, far = (detour, begin) if is_far else (begin, detour)
        told |= _IS_EARLY if is_far else 0
        return told | (far & 0xFFFF) << 32 | near << 48 | site.condition << 56 | _HAS_DETOUR
    if site.condition is not None:
        told |= site.condition << 56 | _HAS_CONDITION
    if site.to_next is not None:
        return told | (site.to_next & 0xFFFF) << 32 | _IS_EARLY
    if site.nr is None and site.held_in:
        told |= _REGISTERS.index(site.held_in) << 32
    return told if site.held_at is None else told | (site.held_at & 0xFFFF) << 40 | _IN_MEMORY


def _read_code(path: Path, size: int) -> _Code:
    if size > _LARGEST:
        return _Code((), f"is larger than {_LARGEST >> 20} MiB, and is not looked through", None)
    # Of a hundred thousand small objects the collector would look at each again and again, and find none to free.
    gc.disable()
    try:
        elf = Elf(path.read_bytes())
        found, passed, function = find_sites(elf), numbers_passed(elf), syscall_function(elf)
    except OSError:
        raise
    except Exception as error:  # whatever is odd about a file of somebody else's
        return _Code((), f"cannot be read: {error}", None)
    finally:
        gc.enable()
    refused = [f"has a system call at {offset:#x} that no probe can be on: {why}" for offset, why in found.refused]
    other = [f"enters the kernel at {offset:#x} by {how}" for offset, how in found.other]
    return _Code(found.sites, next(iter(refused + other), ""), passed, function)


def _shown(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return str(path)
