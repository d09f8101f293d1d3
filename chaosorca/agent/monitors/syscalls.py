"""Monitors system calls. One set of eBPF programs counts and times the calls of all targets (bpf/syscalls.c)."""

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
from chaosorca.agent.linux.cgroups import ROOT_ID
from chaosorca.agent.linux.proc import Io
from chaosorca.agent.targets.target import Target
from chaosorca.model.errno import errno_name
from chaosorca.model.errors import AgentError
from chaosorca.model.syscall_table import syscall_names, syscall_numbers

TIMED_BY_CALL, TIMED_BY_THREAD = 1, 2
_OF_32_BIT, _OF_X32 = 1 << 31, 1 << 30
_CODE_SEGMENT_AT = {"x86_64": 17 * 8}
"""The offset of the code segment in `struct pt_regs`, in bytes."""
_GROUPS = 4096
"""The size of a table that tells the kernel which control groups may be monitored. The index is a group's id modulo this size."""
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
"""The layouts of the maps in bpf/syscalls.c. The maps of calls in flight are left out, since only the kernel reads them."""
_OWN_LAYOUTS = {"syscalls_plain": {"in_flight": ("=I", "=QQ6I")}}
"""Further layouts by program. `in_flight` is listed only so that its entries can be counted: this map can become full."""

_CALLS, _LEAST_CALLS, _MEMORY = 8192, 1024, 64 << 20
"""The largest and the smallest capacity of the map `calls`. Between these limits, the map takes up to `_MEMORY` bytes."""
_PROGRAMS = ("syscalls", "syscalls_plain")
"""The second program is for kernels without type information (BTF)."""
_COUNTING = ("on_sys_exit", "on_sys_enter")
"""eBPF functions that run at every system call of the host. They are attached only while a target's calls are counted."""
_log = logging.getLogger("chaosorca.agent")


class SyscallMonitor:
    """Counts system calls. The programs are loaded for the first target. Each further target only adds entries to a map."""

    def __init__(self, arch: str, capacities: dict[str, int] | None = None) -> None:
        """
        Arguments:
            arch: the machine, `x86_64` or `aarch64`.
            capacities: the maximum number of entries of each map. The default depends on the number of processors.
        """
        self._capacities = capacities
        self._code_segment_at = _CODE_SEGMENT_AT.get(arch, 0)
        self._names = syscall_names(arch)
        self._numbers = syscall_numbers(arch)
        self._preparing = threading.Lock()  # guards the loading of `_program`
        self._program: Program | None = None
        self.io_of_ended_threads = False
        self._lock = threading.Lock()  # guards all of the following, and all access to the maps
        self._targets: dict[str, int] = {}
        self._cgroups: dict[str, set[int]] = {}
        self._counted: set[str] = set()  # targets whose calls are counted; other targets have only the I/O of their ended threads
        self._version = self._published = 0  # the version of the set of monitored control groups, here and in the kernel
        self._epoch = 0  # how often counting has started
        self._links: list[int] = []
        self._untimed: dict[str, set[int]] = {}
        self._timed_by: dict[str, int] = {}
        self._next = 1

    def prepare(self) -> None:
        """Load the programs unless they are loaded already.

        Raises:
            AgentError: the kernel refuses the programs.
        """
        with self._preparing:
            if self._program is None:
                offsets = io_accounting_offsets()
                numbers = {f"NR_{name.upper()}": self._numbers[name] for name in ("exit", "exit_group", "rt_sigreturn")}
                constants = {**numbers, **offsets, "CODE_SEGMENT_AT": self._code_segment_at}
                program = _load(constants, self._capacities or _capacities(possible_processors()))
                self.io_of_ended_threads = bool(offsets)
                self._program = program

    def attach(self, target: Target, counting: bool = True) -> None:
        """Start to monitor a target. If it is monitored already, register its current control groups.

        Arguments:
            target: the container.
            counting: whether to count the target's calls. Otherwise, only the I/O of its ended threads is counted. This adds no
                cost to its calls.

        Raises:
            AgentError: the kernel refuses to count the calls. The I/O of ended threads may be counted nevertheless.
        """
        ids = set(target.cgroup.ids())
        if ROOT_ID in ids or target.cgroup.unified is None:
            raise AgentError(
                f"the system calls of container {target.name!r} cannot be distinguished from others: "
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
                self._publish()
            except AgentError:
                if target.name in self._counted:
                    self._counted.remove(target.name)
                    self._version += 1
                    with contextlib.suppress(AgentError):  # the first error is raised instead
                        self._publish()
                raise

    def suspend(self, name: str) -> None:
        """Remove the control groups of a target that has ended. The target's counts are kept in case it restarts."""
        with self._lock:
            if self._cgroups.get(name):
                self._set_cgroups(name, set())
                # An error here means only that calls of other targets still cannot be counted.
                with contextlib.suppress(AgentError):
                    self._publish()

    def detach(self, name: str) -> None:
        """Stop monitoring a target, and delete its counts."""
        with self._lock:
            if name not in self._targets or self._program is None:
                return
            self._set_cgroups(name, set())
            self._cgroups.pop(name, None)
            self._counted.discard(name)
            self._version += 1
            # An error here means only that calls of other targets still cannot be counted.
            with contextlib.suppress(AgentError):
                self._publish()
            number = self._targets.pop(name)
            self._untimed.pop(name, None)
            self._timed_by.pop(name, None)
            for table in ("calls", "errors", "untimed"):
                self._program[table].delete_those(lambda key: key[0] == number)
            self._program["ended_io"].delete(number)

    def marks(self) -> int | None:
        """Return the id of the map `marks`; None before the programs are loaded.

        In this map, a tracer marks the threads whose calls it times.
        """
        return self._program["marks"].id() if self._program is not None else None

    def leave_timing_to_tracer(self, name: str, syscalls: tuple[str, ...], by_thread: bool = False) -> None:
        """Leave the timing of some calls to the target's tracer, because the tracer knows the delays that it injects.

        Arguments:
            name: the name of the target.
            syscalls: the system calls that the tracer times.
            by_thread: whether the tracer also times the calls of threads that it marks.
        """
        with self._lock:
            numbers = {self._numbers[syscall] for syscall in syscalls}
            timed_by = bool(numbers) * TIMED_BY_CALL + by_thread * TIMED_BY_THREAD
            current = (self._untimed.get(name, set()), self._timed_by.get(name, 0))
            if name not in self._targets or self._program is None or current == (numbers, timed_by):
                return
            table = self._program["untimed"]
            before = self._untimed.get(name, set())
            self._untimed[name] = before | numbers  # all entries that may exist if an update below fails because the map is full
            for number in numbers:
                table.put((self._targets[name], number), 1)
            for number in before - numbers:
                table.delete((self._targets[name], number))
            self._untimed[name], self._timed_by[name] = numbers, timed_by
            self._set_cgroups(name, self._cgroups.get(name, set()), rewrite=True)
            self._publish()

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Return the number of calls by container, system call and errno. The errno of success is empty."""
        return self.figures()[0]

    def figures(self) -> tuple[dict[tuple[str, str, str], int], dict[tuple[str, str], Histogram]]:
        """Return the numbers and the latencies of calls.

        Returns:
            the number of calls by container, system call and errno, and the latencies by container and system call. The errno of
            success is empty.
        """
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
        """Return, by container, the I/O of threads that have ended since monitoring began.

        The result is empty if the kernel has no type information (BTF).
        """
        with self._lock:
            names = self._names_of_targets() if self.io_of_ended_threads else {}
            by_target = dict(self._entries_of("ended_io", names))
            return {name: Io(*by_target.get(target, ())) for target, name in names.items()}

    def program(self) -> Program | None:
        """Return the loaded program; None before it is loaded."""
        return self._program

    def _name(self, number: int) -> str:
        for mark, interface in ((_OF_32_BIT, "compat"), (_OF_X32, "x32")):
            if number & mark:
                return f"{interface}:{number - mark}"
        return self._names.get(number, f"unknown:{number}")

    def _names_of_targets(self) -> dict[int, str]:
        return {number: name for name, number in self._targets.items()}

    def _entries_of(self, table: str, names: dict[int, str]) -> Iterator[tuple[Any, Any]]:
        """Yield a map's entries of the given targets, and delete its entries of other targets.

        The map also has entries of other targets: a call that began before its container's monitoring stopped is counted at its
        exit.
        """
        if self._program is None:
            return
        for key, value in self._program[table].entries():
            if (key[0] if isinstance(key, tuple) else key) in names:
                yield key, value
            else:
                self._program[table].delete(key)

    def _set_cgroups(self, name: str, ids: set[int], rewrite: bool = False) -> None:
        """Register the control groups of a target. They take effect at the next `_publish`."""
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

    def _publish(self) -> None:
        """Tell the kernel which control groups are monitored. At its next call, each thread then looks up its target again.

        Attach the programs if the calls of at least one control group are counted. Otherwise, detach the programs.
        """
        if self._program is None or self._version == self._published:
            return
        monitored = [0] * _GROUPS
        for cgroup in set().union(*(self._cgroups.get(name, ()) for name in self._counted)):
            monitored[cgroup % _GROUPS] = 1
        if not any(monitored):
            self._stop_counting(self._program)
        elif not self._links:
            self._epoch += 1
        self._program[".bss"].put(0, (*monitored, self._version % (1 << 32), self._epoch))
        if any(monitored) and not self._links:
            self._begin_counting(self._program)
        self._published = self._version

    def _begin_counting(self, program: Program) -> None:
        try:
            for function in _COUNTING:
                self._links.append(program.attach(function))
        except OSError as error:
            self._stop_counting(program)
            raise AgentError(f"system calls cannot be counted: the kernel refuses the tracepoints ({error.strerror})") from error

    def _stop_counting(self, program: Program) -> None:
        for link in self._links:
            program.detach(link)
        self._links = []


def _load(constants: dict[str, int], capacities: dict[str, int]) -> Program:
    """Load the first program in `_PROGRAMS` that this kernel accepts."""
    *better, last = _PROGRAMS

    def load(name: str) -> Program:
        layouts = _LAYOUTS | _OWN_LAYOUTS.get(name, {})
        return Program(name, layouts, constants, capacities=capacities, later=_COUNTING)

    for name in better:
        try:
            return load(name)
        except AgentError as error:
            _log.info("%s: a slower program is loaded instead", error)
    return load(last)


def _capacities(processors: int) -> dict[str, int]:
    """Return the maximum number of entries of each per-CPU map."""
    calls = min(_CALLS, max(_LEAST_CALLS, _MEMORY // (struct.calcsize(_FIGURES) * processors)))
    return {"calls": calls, "errors": 2 * calls}
