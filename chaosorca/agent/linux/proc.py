"""Reads /proc. Each function takes the root of a proc file system, so that tests can use their own files.

The formats are described in proc(5).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_GONE = (FileNotFoundError, ProcessLookupError)
_ENDED = "ZX"
FileId = tuple[int, int]
"""A file's device and inode."""


@dataclass(frozen=True)
class CodeFile:
    """A file that a process has mapped as code.

    Attributes:
        id: its device and inode.
        name: its path, as the process sees it.
        path: a path by which the agent can open it.
    """

    id: FileId
    name: str
    path: Path


@dataclass(frozen=True)
class Io:
    """Bytes read and written, and operations. Depending on the source, an operation is a device request or a system call."""

    read: int = 0
    written: int = 0
    reads: int = 0
    writes: int = 0

    def __add__(self, other: Io) -> Io:
        return Io(self.read + other.read, self.written + other.written, self.reads + other.reads, self.writes + other.writes)

    def __or__(self, other: Io) -> Io:
        """Return the larger value of each field."""
        return Io(
            max(self.read, other.read),
            max(self.written, other.written),
            max(self.reads, other.reads),
            max(self.writes, other.writes),
        )


def threads(proc: Path, pid: int) -> list[int]:
    """Return the threads of a process; none if it has ended."""
    try:
        return sorted(int(entry.name) for entry in Path(f"{proc}/{pid}/task").iterdir())
    except _GONE:
        return []


def _status(proc: Path, pid: int, tid: int) -> dict[str, str]:
    try:
        text = Path(f"{proc}/{pid}/task/{tid}/status").read_text(errors="replace")
    except _GONE:
        return {}
    fields = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in fields}


def tracer_of(proc: Path, pid: int, tid: int) -> int | None:
    """Return the process that traces a thread, 0 for none. Return None for a thread that has ended or is a zombie."""
    status = _status(proc, pid, tid)
    return int(status["TracerPid"]) if status and status["State"][0] not in _ENDED else None


def state_of(proc: Path, pid: int) -> str:
    """Return the letter of a process's state, for example "S" or "T"; empty if it has ended."""
    return _status(proc, pid, pid).get("State", "")[:1]


def signals(proc: Path, pid: int, tid: int, field: str) -> set[int]:
    """Return the signals in one of a thread's masks, such as `SigBlk` (blocked) or `SigCgt` (caught); none if it has ended."""
    mask = int(_status(proc, pid, tid).get(field, "0"), 16)
    return {number + 1 for number in range(mask.bit_length()) if mask >> number & 1}


def command_name(proc: Path, pid: int) -> str:
    """Return the short name of a process; empty if it has ended."""
    try:
        return Path(f"{proc}/{pid}/comm").read_text(errors="replace").strip()
    except _GONE:
        return ""


def children(proc: Path, pid: int) -> list[int]:
    """Return the child processes of a process's first thread."""
    try:
        return [int(word) for word in (proc / str(pid) / "task" / str(pid) / "children").read_text().split()]
    except _GONE:
        return []


def uses_io_uring(proc: Path, pid: int) -> bool:
    """Return whether a process has an open io_uring. Operations of an io_uring are not system calls."""
    try:
        return any("[io_uring]" in entry.readlink().name for entry in (proc / str(pid) / "fd").iterdir())
    except OSError:
        return False


def namespace(proc: Path, pid: int, kind: str) -> int:
    """Return the inode of a process's namespace.

    Arguments:
        proc: the root of the proc file system.
        pid: the process.
        kind: a name in /proc/PID/ns.
    """
    return (proc / str(pid) / "ns" / kind).stat().st_ino


def thread_io(proc: Path, pid: int) -> Io:
    """Return the I/O of a process's living threads. Ended threads and child processes are left out."""
    total = Io()
    for tid in threads(proc, pid):
        if tracer_of(proc, pid, tid) is not None:
            total += _io(Path(f"{proc}/{pid}/task/{tid}/io"))
    return total


def process_io(proc: Path, pid: int) -> Io:
    """Return the I/O of a process, including its ended threads and the children that it has waited for.

    The operations are system calls that read or write files, pipes or sockets.
    """
    return _io(proc / str(pid) / "io")


def _io(path: Path) -> Io:
    try:
        text = path.read_text()
    except (*_GONE, PermissionError):
        return Io()
    fields = dict(line.split(": ") for line in text.splitlines() if ": " in line)
    return Io(*(int(fields[name]) for name in ("read_bytes", "write_bytes", "syscr", "syscw")))


def resident_bytes(proc: Path, pid: int) -> int:
    """Return the memory that a process has in use, in bytes; 0 if it has ended."""
    try:
        return int((proc / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except _GONE:
        return 0


def virtual_pages(proc: Path, pid: int) -> int:
    """Return the size of a process's address space in pages; 0 if it has ended. Loading a library increases the size."""
    try:
        return int((proc / str(pid) / "statm").read_text().split()[0])
    except _GONE:
        return 0


def code_files(proc: Path, pid: int) -> list[CodeFile]:
    """Return the files that a process has mapped as code; none if it has ended."""
    try:
        lines = (proc / str(pid) / "maps").read_text(errors="replace").splitlines()
    except OSError:
        return []
    found: dict[FileId, CodeFile] = {}
    for line in lines:
        span, permissions, _offset, device, inode, *name = line.split(maxsplit=5)
        if "x" in permissions and inode != "0":
            major, minor = (int(number, 16) for number in device.split(":"))
            begin, end = (int(address, 16) for address in span.split("-"))
            path = proc / str(pid) / "map_files" / f"{begin:x}-{end:x}"  # without leading zeros
            file = (os.makedev(major, minor), int(inode))
            found.setdefault(file, CodeFile(file, "".join(name), path))
    return list(found.values())


def network_devices(proc: Path, pid: int) -> set[str]:
    """Return the names of the devices in a process's network namespace."""
    return {line.split(":", 1)[0].strip() for line in (proc / str(pid) / "net" / "dev").read_text().splitlines()[2:]}


def network_bytes(proc: Path, pid: int) -> tuple[int, int]:
    """Return the bytes received and transmitted in a process's network namespace, on all devices except loopback."""
    received = transmitted = 0
    for line in (proc / str(pid) / "net" / "dev").read_text().splitlines()[2:]:
        device, figures = line.split(":", 1)
        if device.strip() != "lo":
            words = figures.split()
            received += int(words[0])
            transmitted += int(words[8])
    return received, transmitted
