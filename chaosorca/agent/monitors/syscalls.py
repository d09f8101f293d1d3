"""System calls of all targets, counted and timed by one set of programs in the kernel (bpf/syscalls.c)."""

from __future__ import annotations

import contextlib
import logging
import struct
import threading
from collections.abc import Iterator
from typing import Any

from chaosorca.agent.ebpf.library import possible_processors
from chaosorca.agent.ebpf.program import Program
from chaosorca.agent.histogram import SLOTS, Histogram
from chaosorca.agent.linux.btf import io_accounting_offsets
from chaosorca.agent.linux.proc import Io
from chaosorca.agent.targets.target import Target
from chaosorca.model.errno import errno_name
from chaosorca.model.errors import AgentError
from chaosorca.model.syscalls import syscall_names, syscall_numbers

TIMED_BY_CALL, TIMED_BY_THREAD = 1, 2
_OF_32_BIT, _OF_X32 = 1 << 31, 1 << 30
_CODE_SEGMENT_AT = {"x86_64": 17 * 8}
"""Where `struct pt_regs` has it."""
_GROUPS = 4096
"""Of how many last bits of a control group's id the kernel looks whether it may be watched; see bpf/syscalls.c."""
_FIGURES = "=QQ" + SLOTS * "Q"
_LAYOUTS = {
    "monitored_cgroups": ("=Q", "=II"),
    ".bss": ("=I", f"={_GROUPS}BII"),
    "untimed": ("=II", "=B"),
    "marks": ("=I", "=B"),
    "calls": ("=II", _FIGURES),
    "errors": ("=III", "=Q"),
    "ended_io": ("=I", "=QQQQ"),
    "dropped": ("=I", "=Q"),
}
"""Of the maps in bpf/syscalls.c; what a thread is in is the kernel's alone,"""
_OWN_LAYOUTS = {"syscalls_plain": {"in_flight": ("=I", "=QQ6I")}}
"""but where it is in a map that can be full."""

_CALLS, _LEAST_CALLS, _MEMORY = 8192, 1024, 64 << 20
"""How many system calls of all targets are kept, by target and number; fewer where they would take more bytes than that."""
_PROGRAMS = ("syscalls", "syscalls_plain")
"""The second is for kernels that do not tell their types."""
_COUNTING = ("on_sys_exit", "on_sys_enter")
"""What every system call of the host pays for, and is attached only while somebody's are counted."""
_log = logging.getLogger("chaosorca.agent")


class SyscallMonitor:
    """Counts system calls; the first target loads the programs, each further one is an entry of a map."""

    def __init__(self, arch: str, capacities: dict[str, int] | None = None) -> None:
        """
        Arguments:
            arch: the machine, `x86_64` or `aarch64`.
            capacities: how many entries the kernel's maps have; as many as this machine's processors let them have if not given.
        """
        self._capacities = capacities
        self._code_segment_at = _CODE_SEGMENT_AT.get(arch, 0)
        self._names = syscall_names(arch)
        self._numbers = syscall_numbers(arch)
        self._lock = threading.Lock()
        self._preparing = threading.Lock()
        self._program: Program | None = None
        self._targets: dict[str, int] = {}
        self._cgroups: dict[str, set[int]] = {}
        self._counted: set[str] = set()
        self._version = self._told = self._epoch = 0
        self._links: list[int] = []
        self._untimed: dict[str, set[int]] = {}
        self._timed_by: dict[str, int] = {}
        self._next = 1
        self.io_of_ended_threads = False

    def prepare(self) -> None:
        """Load and attach the programs, if that has not been done."""
        with self._preparing:
            if self._program is None:
                offsets = io_accounting_offsets()
                numbers = {f"NR_{name.upper()}": self._numbers[name] for name in ("exit", "exit_group", "rt_sigreturn")}
                constants = {**numbers, **offsets, "CODE_SEGMENT_AT": self._code_segment_at}
                program = _load(constants, self._capacities or _capacities(possible_processors()))
                self.io_of_ended_threads = bool(offsets)
                self._program = program

    def attach(self, target: Target, counting: bool = True) -> None:
        """Begin to count a target's calls, or follow it to the control groups that it has now.

        Arguments:
            target: the container.
            counting: else only what its ended threads had read and written is kept, which costs its calls nothing.

        Raises:
            AgentError: the kernel refuses it; what its ended threads had read and written may be kept nevertheless.
        """
        ids = set(target.cgroup.ids())
        if 1 in ids or target.cgroup.unified is None:
            raise AgentError(
                f"the system calls of container {target.name!r} cannot be told apart: "
                "it has no control group of its own in the unified hierarchy"
            )
        self.prepare()
        with self._lock:
            if target.name not in self._targets:
                self._targets[target.name] = self._next
                self._next += 1
            if counting and target.name not in self._counted:
                self._counted.add(target.name)
                self._version += 1
            try:
                self._set_cgroups(target.name, ids)
                self._tell()
            except AgentError:
                if target.name in self._counted:
                    self._counted.remove(target.name)
                    self._version += 1
                    with contextlib.suppress(AgentError):  # it is told already
                        self._tell()
                raise

    def suspend(self, name: str) -> None:
        """Have the kernel look for a target no more, which has ended; what was counted waits for its return."""
        with self._lock:
            if self._cgroups.get(name):
                self._set_cgroups(name, set())
                with contextlib.suppress(AgentError):  # of another target, whose calls could not be counted before either
                    self._tell()

    def detach(self, name: str) -> None:
        """Stop counting a target's calls and forget its counts."""
        with self._lock:
            if name not in self._targets or self._program is None:
                return
            self._set_cgroups(name, set())
            self._cgroups.pop(name, None)
            self._counted.discard(name)
            self._version += 1
            with contextlib.suppress(AgentError):  # of another target, whose calls could not be counted before either
                self._tell()
            number = self._targets.pop(name)
            self._untimed.pop(name, None)
            self._timed_by.pop(name, None)
            for table in ("calls", "errors", "untimed"):
                self._program[table].delete_those(lambda key: key[0] == number)
            self._program["ended_io"].delete(number)

    def marks(self) -> int | None:
        """The kernel's number of the map in which a tracer marks threads whose call it times; None before the programs run."""
        return self._program["marks"].id() if self._program is not None else None

    def leave_timing_to_tracer(self, name: str, syscalls: tuple[str, ...], by_thread: bool = False) -> None:
        """Do not time what a tracer does, which sees the delays that it makes.

        Arguments:
            name: the target.
            syscalls: all calls of these names.
            by_thread: calls of threads that are marked while they make them.
        """
        with self._lock:
            numbers = {self._numbers[syscall] for syscall in syscalls}
            timed_by = bool(numbers) * TIMED_BY_CALL + by_thread * TIMED_BY_THREAD
            known = (self._untimed.get(name, set()), self._timed_by.get(name, 0))
            if name not in self._targets or self._program is None or known == (numbers, timed_by):
                return
            table = self._program["untimed"]
            before = self._untimed.get(name, set())
            self._untimed[name] = before | numbers  # what may be there if it gets full
            for number in numbers:
                table.put((self._targets[name], number), 1)
            for number in before - numbers:
                table.delete((self._targets[name], number))
            self._untimed[name], self._timed_by[name] = numbers, timed_by
            self._set_cgroups(name, self._cgroups.get(name, set()), rewrite=True)
            self._tell()

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Calls by container, system call and errno (empty: success)."""
        return self.figures()[0]

    def figures(self) -> tuple[dict[tuple[str, str, str], int], dict[tuple[str, str], Histogram]]:
        """Calls by container, system call and errno (empty: success), and latency histograms by container and system call."""
        with self._lock:
            names = self._names_of_targets()
            counts: dict[tuple[str, str, str], int] = {}
            durations: dict[tuple[str, str], Histogram] = {}
            for (target, nr), by_processor in self._entries_of("calls", names):
                succeeded, nanoseconds, *slots = (
                    by_processor[0] if len(by_processor) == 1 else map(sum, zip(*by_processor, strict=True))
                )
                if succeeded:
                    counts[names[target], self._name(nr), ""] = succeeded
                if any(slots):
                    durations[names[target], self._name(nr)] = Histogram(slots, nanoseconds / 1e9)
            for (target, nr, error), by_processor in self._entries_of("errors", names):
                counts[names[target], self._name(nr), errno_name(error)] = sum(by_processor)
            return counts, durations

    def ended_io(self) -> dict[str, Io]:
        """What ended threads of each container had read and written while it was watched, of those that the kernel tells it of."""
        with self._lock:
            names = self._names_of_targets() if self.io_of_ended_threads else {}
            told = dict(self._entries_of("ended_io", names))
            return {name: Io(*told.get(target, ())) for target, name in names.items()}

    def program(self) -> Program | None:
        """What is loaded, for what it costs; None before that."""
        return self._program

    def _name(self, number: int) -> str:
        for mark, interface in ((_OF_32_BIT, "compat"), (_OF_X32, "x32")):
            if number & mark:
                return f"{interface}:{number - mark}"
        return self._names.get(number, f"unknown:{number}")

    def _names_of_targets(self) -> dict[int, str]:
        return {number: name for name, number in self._targets.items()}

    def _entries_of(self, table: str, names: dict[int, str]) -> Iterator[tuple[Any, Any]]:
        """A map's keys and values; none before the programs run.

        A call that a container was in when it stopped being watched is still counted when it ends: that goes.
        """
        if self._program is None:
            return
        for key, value in self._program[table].entries():
            if (key[0] if isinstance(key, tuple) else key) in names:
                yield key, value
            else:
                self._program[table].delete(key)

    def _set_cgroups(self, name: str, ids: set[int], rewrite: bool = False) -> None:
        """Have a target be in these control groups. Threads that remember by whom they are watched hear of it by `_tell`."""
        if self._program is None:
            return
        before = self._cgroups.get(name, set())
        if before == ids and not rewrite:
            return
        table = self._program["monitored_cgroups"]
        for cgroup in before - ids:
            table.delete(cgroup)
        self._cgroups[name] = before & ids
        if before - ids:
            self._version += 1
        for cgroup in ids if rewrite else ids - before:
            table.put(cgroup, (self._targets[name], self._timed_by.get(name, 0)))
            self._cgroups[name].add(cgroup)
            self._version += 1

    def _tell(self) -> None:
        """Tell the kernel whose calls may be counted, and have it count while there is anybody."""
        if self._program is None or self._version == self._told:
            return
        watched = [0] * _GROUPS
        for cgroup in set().union(*(self._cgroups.get(name, ()) for name in self._counted)):
            watched[cgroup % _GROUPS] = 1
        if not any(watched):
            self._stop_counting(self._program)
        elif not self._links:
            self._epoch += 1
        self._program[".bss"].put(0, (*watched, self._version % (1 << 32), self._epoch))
        if any(watched) and not self._links:
            self._begin_counting(self._program)
        self._told = self._version

    def _begin_counting(self, program: Program) -> None:
        try:
            for function in _COUNTING:
                self._links.append(program.attach(function))
        except OSError as error:
            self._stop_counting(program)
            raise AgentError(f"system calls cannot be counted: this kernel lets no program see them ({error.strerror})") from error

    def _stop_counting(self, program: Program) -> None:
        for link in self._links:
            program.detach(link)
        self._links = []


def _load(constants: dict[str, int], capacities: dict[str, int]) -> Program:
    """The first program that this kernel takes."""
    *better, last = _PROGRAMS

    def load(name: str) -> Program:
        layouts = _LAYOUTS | _OWN_LAYOUTS.get(name, {})
        return Program(name, layouts, constants, capacities=capacities, later=_COUNTING)

    for name in better:
        try:
            return load(name)
        except AgentError as error:
            _log.info("%s: a slower one is taken", error)
    return load(last)


def _capacities(processors: int) -> dict[str, int]:
    """How many entries maps have in which each processor has values of its own."""
    calls = min(_CALLS, max(_LEAST_CALLS, _MEMORY // (struct.calcsize(_FIGURES) * processors)))
    return {"calls": calls, "errors": 2 * calls}
