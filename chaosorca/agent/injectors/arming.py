"""Uprobes that arm threads (bpf/arm.c): the eBPF program, its rules and its probes, for all targets of the host.

The program is loaded once. A probe belongs to a file, and containers of one image share their files. A rule belongs to a target.
Each target has a number, and a map of the program translates the target's control groups to that number.
"""

from __future__ import annotations

import contextlib
import mmap
import platform
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from chaosorca.agent import timeouts
from chaosorca.agent.code.binaries import GONE, Binaries, name_of
from chaosorca.agent.ebpf.program import Program
from chaosorca.agent.ebpf.uprobes import Uprobes
from chaosorca.agent.injectors.cookie import ANY_NR, UNKNOWN_NR, cookie_of, group_of
from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.linux.btf import member_offsets
from chaosorca.agent.linux.proc import FileId
from chaosorca.model.errors import AgentError

SIGNALS = (23, 28)
"""SIGURG and SIGWINCH. By default, both are ignored. A thread that blocks SIGURG gets SIGWINCH, unless it handles SIGWINCH."""

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
"""Key and value of each map in bpf/arm.c."""

_MMAP = 9
_FUNCTION = "at_site"
_CLOSED_AT_ONCE = 16
_TRIAL = 0  # the user of trial probes; targets have numbers from 1


@dataclass(frozen=True)
class ArmRule:
    """The part of a fault that the kernel needs to decide on a call: `struct rule` in bpf/arm.c."""

    key: int
    decided_by_tracer: bool
    first: int
    last: int
    step: int
    threshold: int
    seed: int


class Arming:
    """The program with its maps and probes. The program is loaded when it is first needed."""

    def __init__(self, proc: Path = Path("/proc"), one_by_one: bool = False) -> None:
        """
        Arguments:
            proc: the proc file system.
            one_by_one: whether to attach each probe by its own perf event, as kernels before Linux 6.6 require.
        """
        self._proc = proc
        self._one_by_one = one_by_one
        # Guards `_uprobes`, `_links` and `_users`. This lock is taken before the lock of `_binaries`.
        self._lock = threading.RLock()
        self._uprobes: Uprobes | None = None
        self._links: dict[tuple[FileId, int], Callable[[], None] | None] = {}
        self._users: dict[tuple[FileId, int], set[int]] = {}
        self._binaries = Binaries(proc, self._has_probes)

    def prepare(self) -> None:
        """Load the program unless it is already loaded.

        Raises:
            AgentError: this machine or kernel does not support the program. The message says what is missing.
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
        """Return the program; None until it is loaded. The exporter reports its cost."""
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
        """Return the kernel's id of the map of armed threads."""
        return self._program["armed"].id()

    def set_cgroups(self, number: int, before: Collection[int], now: Collection[int]) -> None:
        """Replace the control groups of a target."""
        table = self._program["armed_cgroups"]
        for cgroup in set(before) - set(now):
            table.delete(cgroup)
        for cgroup in set(now) - set(before):
            table.put(cgroup, number)

    def set_rule(self, number: int, numbers: Collection[int], rule: ArmRule) -> None:
        """Add a rule: a thread of the target that makes one of these system calls is armed."""
        value = (rule.key, rule.decided_by_tracer, rule.first, rule.last, rule.step, 0, rule.threshold, rule.seed)
        for nr in numbers:
            self._program["rules"].put((number, nr), value)

    def drop_rule(self, number: int, numbers: Collection[int]) -> None:
        """Remove a target's rules for these system calls."""
        for nr in numbers:
            self._program["rules"].delete((number, nr))

    def armed_by(self, key: int) -> int:
        """Return the number of threads that a rule has armed and that have not reached their tracer yet."""
        return sum(1 for _, (rule, *_) in self._program["armed"].entries() if rule == key)

    def seen(self, number: int) -> dict[int, int]:
        """Return how often the probes have seen each faulted system call of a target, by system call number."""
        return self._counted("seen", number)

    def new_code(self, number: int) -> int:
        """Return how often a target's processes have mapped code so far."""
        return self._program["new_code"].get(number) or 0

    def set_syscall_stops(self, tid: int, on: bool) -> None:
        """Mark a thread that the tracer stops at each call, or remove the mark. A marked thread is not armed.

        The mark lasts until the thread ends.
        """
        table = self._program["syscall_stops"]
        if on:
            table.put(tid, 1)
        else:
            table.delete(tid)

    def has_syscall_stops(self, tid: int) -> bool:
        """Return whether a thread has the mark of `set_syscall_stops`."""
        return self._program["syscall_stops"].get(tid) is not None

    def blocked(self, number: int) -> dict[int, int]:
        """Return how many calls of a target were not hit because their threads blocked the signals.

        The keys are system call numbers.
        """
        return self._counted("blocked", number)

    def untraced(self, number: int) -> dict[int, int]:
        """Count the calls of a target's threads that the agent's tracers do not trace. These calls are not hit.

        The keys are system call numbers.
        """
        return self._counted("untraced", number)

    def _counted(self, table: str, number: int) -> dict[int, int]:
        return {nr: count for (target, nr), count in self._program[table].entries() if target == number}

    def reset_untraced(self, number: int) -> None:
        """Set a target's counts of `untraced` to zero."""
        self._program["untraced"].delete_those(lambda key: key[0] == number)

    def register_tracer(self, pid: int) -> None:
        """Register a tracer. The program may arm the threads of this tracer until the tracer ends."""
        self._program["tracers"].put(pid, 1)

    def forget(self, number: int) -> None:
        """Delete all counts of a target."""
        for name in ("seen", "blocked", "untraced"):
            self._program[name].delete_those(lambda key: key[0] == number)

    def cannot(self, pids: Collection[int]) -> str:
        """Return why probes miss some system calls of these processes; empty if the probes miss none."""
        return self._binaries.cannot(pids)

    def try_out(self, pids: Collection[int], numbers: Collection[int]) -> None:
        """Attach the probes that a fault would need, and detach them again.

        Raises:
            AgentError: the kernel refuses a probe.
        """
        try:
            self.probe(_TRIAL, pids, numbers)
        finally:
            self.release(_TRIAL)

    def probe(self, user: int, pids: Collection[int], numbers: Collection[int]) -> None:
        """Attach probes to all sites of these system calls in the files that processes execute.

        Arguments:
            user: a number that identifies the user of the probes; pass it to `release`. Several users may share a probe.
            pids: the processes.
            numbers: the numbers of the system calls.

        Raises:
            AgentError: the kernel refuses a probe. The probes that the kernel has accepted stay until they are released.
        """
        found: list[tuple[Path, FileId, frozenset[int] | None]] = []
        for path, file in self._binaries.files(pids):
            # A file whose process has ended stays unknown, so that the next process with this file is inspected again.
            with contextlib.suppress(*GONE):
                found.append((path, file, self._binaries.code(path, file).by_syscall_function))
        by_function = any(passed is None or not passed.isdisjoint({*numbers, _MMAP}) for _, _, passed in found)
        for path, file, _ in found:
            self._probe_file(user, path, file, [*numbers, _MMAP, UNKNOWN_NR, *([ANY_NR] if by_function else [])])

    def release(self, user: int, numbers: Collection[int] | None = None) -> None:
        """Release a user's probes on some system calls, or on all of them.

        A probe without users is detached a moment later, and a fault that begins before that moment reuses the probe. The reason
        is that detaching takes the kernel some time, and a site must never have two probes.
        """
        with self._lock:
            for at, users in self._users.items():
                if user in users and (numbers is None or at[1] in numbers):
                    users.discard(user)
        threading.Timer(timeouts.PROBES_CLOSED_AFTER, self._close_unused).start()

    def _has_probes(self, file: FileId) -> bool:
        return (file, _MMAP) in self._links

    def _probe_file(self, user: int, path: Path, file: FileId, numbers: Collection[int]) -> None:
        with self._lock:
            for nr in numbers:
                at = (file, nr)
                if at not in self._links:
                    try:
                        code = self._binaries.code(path, file)
                        sites = [site for site in code.sites if group_of(site, code) == nr]
                        places = [(site.offset, cookie_of(site)) for site in sites]
                        self._links[at] = self._prepared.attach(_FUNCTION, path, places) if places else None
                    except GONE:
                        return
                    except OSError as error:
                        raise AgentError(f"no uprobe could be attached to {name_of(path)}: {error.strerror}") from error
                self._users.setdefault(at, set()).add(user)

    def _close_unused(self) -> None:
        with self._lock:
            unused = [at for at, users in self._users.items() if not users]
            links = [link for link in map(self._links.pop, unused) if link is not None]
            for at in unused:
                del self._users[at]
            # For each detached probe, the kernel waits for a grace period. Probes detached in parallel share one grace period.
            with ThreadPoolExecutor(_CLOSED_AT_ONCE) as threads:
                list(threads.map(lambda close: close(), links))
