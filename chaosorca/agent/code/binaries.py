"""Finds the programs and libraries that processes execute, and analyses how their code makes system calls.

Each file is analysed once.
"""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from chaosorca.agent.code.callers import numbers_passed, syscall_function
from chaosorca.agent.code.elf import Elf
from chaosorca.agent.code.sites import Site, find_sites
from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.linux.identities import Identities
from chaosorca.agent.linux.proc import FileId

GONE = (FileNotFoundError, ProcessLookupError)
"""The errors of reading a process's file after the process has ended."""

_LARGEST = 192 << 20  # bytes
_MOST_CACHED = 4096  # files; each re-created container brings new ones


@dataclass(frozen=True)
class FileCode:
    """How a file's code makes system calls.

    Attributes:
        sites: the breakpoint sites of the code's system calls.
        problem: the reason why uprobes on these sites miss some calls; empty if the uprobes miss none.
        by_syscall_function: the numbers that the code passes to the C library's `syscall()`; None if unknown.
        syscall_function: the offsets of `syscall()` in the file; empty if the file does not define that function.
    """

    sites: tuple[Site, ...]
    problem: str
    by_syscall_function: frozenset[int] | None = frozenset()
    syscall_function: range = range(0)


class Binaries:
    """Finds the files that processes execute, and caches the analysis of their code."""

    def __init__(self, proc: Path, has_probes: Callable[[FileId], bool]) -> None:
        """
        Arguments:
            proc: the proc file system.
            has_probes: returns whether a file has uprobes. The identity of a file must not change while the file has uprobes.
        """
        self._proc = proc
        self._has_probes = has_probes
        self._identities = Identities()
        # Guards `_cache`, and lets only one thread at a time analyse code.
        self._lock = threading.Lock()
        self._cache: dict[FileId, tuple[tuple[int, int, int], FileCode]] = {}

    def files(self, pids: Collection[int]) -> list[tuple[Path, FileId]]:
        """Return the files that processes execute, each once.

        If a file were listed twice, each of its sites would get two uprobes, and each call would be counted twice.
        """
        mapped = {one.id: one for pid in reversed(list(pids)) for one in procfs.code_files(self._proc, pid)}
        found: dict[FileId, Path] = {}
        for one in mapped.values():
            try:
                found[self._identities.of(one.path, self._has_probes)] = one.path
            except OSError:  # the process has ended, or `code` reports the error
                found[one.id] = one.path
        return [(path, file) for file, path in found.items()]

    def code(self, path: Path, file: FileId) -> FileCode:
        """Return the analysis of a file's code.

        Raises:
            FileNotFoundError, ProcessLookupError: the process that maps the file has ended.
        """
        with self._lock:
            try:
                status = path.stat()
                # The kernel reuses inode numbers. A uprobe at an offset from another file's analysis would corrupt code.
                version = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                cached = self._cache.pop(file, None)
                if cached is None or cached[0] != version:
                    cached = (version, _read_code(path, status.st_size))
                self._cache[file] = cached  # the most recently used file is last
                while len(self._cache) > _MOST_CACHED:
                    del self._cache[next(iter(self._cache))]
            except GONE:
                raise
            except OSError as error:
                return FileCode((), f"cannot be opened by the agent: {error.strerror}", None)
            return cached[1]

    def cannot(self, pids: Collection[int]) -> str:
        """Return why uprobes miss some system calls of these processes; empty if the uprobes miss none."""
        for path, file in self.files(pids):
            try:
                problem = self.code(path, file).problem
            except GONE:
                continue
            if problem:
                return f"{name_of(path)} {problem}"
        return ""


def name_of(path: Path) -> str:
    """Return the path of a mapped file as the mapping process sees it."""
    try:
        return str(path.readlink())
    except OSError:
        return str(path)


def give_back_memory() -> None:
    """Return freed memory to the kernel. Analysing programs needs much memory, which the C library would otherwise keep."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _read_code(path: Path, size: int) -> FileCode:
    if size > _LARGEST:
        return FileCode((), f"is larger than {_LARGEST >> 20} MiB, too large to be disassembled", None)
    # The garbage collector would scan a hundred thousand small objects repeatedly, and find none to free.
    gc.disable()
    try:
        elf = Elf(path.read_bytes())
        found, passed, function = find_sites(elf), numbers_passed(elf), syscall_function(elf)
    except OSError:
        raise
    except Exception as error:  # a container's files may be malformed in any way
        return FileCode((), f"cannot be read: {error}", None)
    finally:
        gc.enable()
    refused = [f"has a system call at {offset:#x} that cannot have a uprobe: {why}" for offset, why in found.refused]
    other = [f"enters the kernel at {offset:#x} by {how}" for offset, how in found.other]
    return FileCode(found.sites, next(iter(refused + other), ""), passed, function)
