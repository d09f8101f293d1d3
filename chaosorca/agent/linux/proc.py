"""Readers of /proc: each takes the root of a proc file system, so that tests can give it files.

Formats: proc(5).
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
    """A file that a process may execute: what it is called there, and a path by which the agent can open it."""

    id: FileId
    name: str
    path: Path


@dataclass(frozen=True)
class Io:
    """Bytes that reached, or came from, the storage layer, and operations; what counts as one depends on who counted."""

    read: int = 0
    written: int = 0
    reads: int = 0
    writes: int = 0

    def __add__(self, other: Io) -> Io:
        return Io(self.read + other.read, self.written + other.written, self.reads + other.reads, self.writes + other.writes)

    def __or__(self, other: Io) -> Io:
        """The larger one of each."""
        return Io(
            max(self.read, other.read),
            max(self.written, other.written),
            max(self.reads, other.reads),
            max(self.writes, other.writes),
        )


def threads(proc: Path, pid: int) -> list[int]:
    """The threads of a process, none if it is gone."""
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
    """The process that traces a thread, 0 for none; None when the thread is gone or a zombie, which nobody can trace."""
    status = _status(proc, pid, tid)
    return int(status["TracerPid"]) if status and status["State"][0] not in _ENDED else None


def state_of(proc: Path, pid: int) -> str:
    """The letter of a process's state, as in "S" or "T"; empty if it is gone."""
    return _status(proc, pid, pid).get("State", "")[:1]


def signals(proc: Path, pid: int, tid: int, field: str) -> set[int]:
    """The signals that a thread has blocked (`SigBlk`), or that it catches (`SigCgt`); none if it is gone."""
    mask = int(_status(proc, pid, tid).get(field, "0"), 16)
    return {number + 1 for number in range(mask.bit_length()) if mask >> number & 1}


def command_name(proc: Path, pid: int) -> str:
    """The short name of a process, empty if it is gone."""
    try:
        return Path(f"{proc}/{pid}/comm").read_text(errors="replace").strip()
    except _GONE:
        return ""


def children(proc: Path, pid: int) -> list[int]:
    """The child processes of a process's first thread."""
    try:
        return [int(word) for word in (proc / str(pid) / "task" / str(pid) / "children").read_text().split()]
    except _GONE:
        return []


def uses_io_uring(proc: Path, pid: int) -> bool:
    """Whether a process has an io_uring open: what it does by it are no system calls."""
    try:
        return any("[io_uring]" in entry.readlink().name for entry in (proc / str(pid) / "fd").iterdir())
    except OSError:
        return False


def namespace(proc: Path, pid: int, kind: str) -> int:
    """The inode of a process's namespace; kind as in /proc/PID/ns."""
    return (proc / str(pid) / "ns" / kind).stat().st_ino


def thread_io(proc: Path, pid: int) -> Io:
    """What the living threads of a process have done themselves, without their ended threads and children."""
    total = Io()
    for tid in threads(proc, pid):
        if tracer_of(proc, pid, tid) is not None:
            total += _io(Path(f"{proc}/{pid}/task/{tid}/io"))
    return total


def process_io(proc: Path, pid: int) -> Io:
    """What a process has done, with its ended threads and the children that it has waited for. Operations are system calls that
    read or write, on whatever: files, pipes, sockets."""
    return _io(proc / str(pid) / "io")


def _io(path: Path) -> Io:
    try:
        text = path.read_text()
    except (*_GONE, PermissionError):
        return Io()
    fields = dict(line.split(": ") for line in text.splitlines() if ": " in line)
    return Io(*(int(fields[name]) for name in ("read_bytes", "write_bytes", "syscr", "syscw")))


def resident_bytes(proc: Path, pid: int) -> int:
    """The memory that a process has in use, none if it is gone."""
    try:
        return int((proc / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except _GONE:
        return 0


def virtual_pages(proc: Path, pid: int) -> int:
    """How large a process's address space is, 0 if it is gone: one that has loaded something is larger than before."""
    try:
        return int((proc / str(pid) / "statm").read_text().split()[0])
    except _GONE:
        return 0


def code_files(proc: Path, pid: int) -> list[CodeFile]:
    """The files that a process has mapped to execute them, none if it is gone."""
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
            path = proc / str(pid) / "map_files" / f"{begin:x}-{end:x}"  # which has no leading zeros
            file = (os.makedev(major, minor), int(inode))
            found.setdefault(file, CodeFile(file, "".join(name), path))
    return list(found.values())


def network_devices(proc: Path, pid: int) -> set[str]:
    """Names of the devices in a process's network namespace."""
    return {line.split(":", 1)[0].strip() for line in (proc / str(pid) / "net" / "dev").read_text().splitlines()[2:]}


def network_bytes(proc: Path, pid: int) -> tuple[int, int]:
    """Bytes received and transmitted in a process's network namespace, on all devices but loopback."""
    received = transmitted = 0
    for line in (proc / str(pid) / "net" / "dev").read_text().splitlines()[2:]:
        device, figures = line.split(":", 1)
        if device.strip() != "lo":
            words = figures.split()
            received += int(words[0])
            transmitted += int(words[8])
    return received, transmitted
