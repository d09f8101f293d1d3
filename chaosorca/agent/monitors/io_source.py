"""Chooses the source of storage figures: control groups if they count accurately on this host, otherwise /proc/PID/io.

`blkio.*` of version 1 may count nothing on a device without a throttling rule. `blkio.*` also leaves out data that the kernel
writes back later for a container. `io.stat` exists only if the engine enables the io controller. The agent therefore writes and
reads a file, and checks whether its own control group counts these bytes.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.agent.linux.libc import last_error, libc

PROC = "/proc/PID/io"
_BYTES = 1 << 20


@dataclass(frozen=True)
class IoSource:
    """The source of storage figures, and the reason for the choice."""

    name: str
    why: str


def choose_io_source(
    own: Cgroup | None, write_and_read: Callable[[int], None] | None = None, write_later: Callable[[int], None] | None = None
) -> IoSource:
    """Choose the source of all containers' storage figures.

    Arguments:
        own: the agent's control group; None if it has no group of its own.
        write_and_read: writes the given number of bytes to a device, and reads them back.
        write_later: writes the given number of bytes to the page cache, and makes the kernel write them back to the device.
    """
    if own is None:
        return IoSource(PROC, "the agent has no control group of its own to check whether control groups count")
    file = own.io_file()
    try:
        before = own.io()
        (write_and_read or write_and_read_past_cache)(_BYTES)
        after = own.io()
        read, written = after.read - before.read, after.written - before.written
        if min(read, written) < _BYTES:
            return IoSource(PROC, f"{file} counted {written} and {read} of {_BYTES} bytes that the agent wrote and read")
        if file == "blkio":
            (write_later or write_through_cache)(_BYTES)
            if own.io().written - after.written < _BYTES:
                return IoSource(PROC, "blkio does not count what the kernel writes back later")
    except OSError as error:
        return IoSource(PROC, f"{file} cannot be checked: {error}")
    return IoSource(file, "it counted all that the agent wrote and read")


def write_and_read_past_cache(size: int, directory: Path | None = None) -> None:
    """Write `size` bytes to a file on a device, and read them back from the device."""
    with _own_file(directory) as file, mmap.mmap(-1, size) as page_aligned:
        try:
            fd = os.open(file, os.O_RDWR | os.O_DIRECT)
        except OSError:  # the file system does not support direct I/O
            fd = os.open(file, os.O_RDWR)
        try:
            os.pwrite(fd, page_aligned, 0)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.preadv(fd, [page_aligned], 0)
        finally:
            os.close(fd)


def write_through_cache(size: int, directory: Path | None = None) -> None:
    """Write `size` bytes to a file through the page cache, and make the kernel write back the file system."""
    with _own_file(directory) as file, file.open("r+b") as opened:
        opened.write(bytes(size))
        opened.flush()
        if libc.syncfs(opened.fileno()) != 0:
            raise last_error("syncfs")


@contextlib.contextmanager
def _own_file(directory: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=directory) as own:
        file = Path(own) / "probe"
        file.touch()
        yield file
