"""Who is asked what a container reads and writes: its control group, where that is seen to count, else /proc/PID/io.

`blkio.*` of version 1 may count nothing on a device that nobody throttles, and leaves out what the kernel writes back later for
a container; `io.stat` is there only where the engine has the io controller. So it is tried out, by what the agent writes and reads.
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
    """Who is asked, and why."""

    name: str
    why: str


def choose_io_source(
    own: Cgroup | None, write_and_read: Callable[[int], None] | None = None, write_later: Callable[[int], None] | None = None
) -> IoSource:
    """Choose the source for all containers.

    Arguments:
        own: the agent's control group.
        write_and_read: writes so many bytes to a device, and reads them from it.
        write_later: writes so many bytes, and has the kernel bring them to the device.
    """
    if own is None:
        return IoSource(PROC, "the agent is in no control group of its own, to try out whether those count")
    file = own.io_file()
    try:
        before = own.io()
        (write_and_read or write_and_read_past_cache)(_BYTES)
        after = own.io()
        read, written = after.read - before.read, after.written - before.written
        if min(read, written) < _BYTES:
            return IoSource(PROC, f"of {_BYTES} bytes that the agent wrote and read itself, {file} counted {written} and {read}")
        if file == "blkio":
            (write_later or write_through_cache)(_BYTES)
            if own.io().written - after.written < _BYTES:
                return IoSource(PROC, "blkio does not count what the kernel writes back later for a container")
    except OSError as error:
        return IoSource(PROC, f"{file} could not be tried out: {error}")
    return IoSource(file, "it counted what the agent wrote and read itself")


def write_and_read_past_cache(size: int, directory: Path | None = None) -> None:
    """Write so many bytes to a file, and read them back from the device."""
    with _own_file(directory) as file, mmap.mmap(-1, size) as page_aligned:
        try:
            fd = os.open(file, os.O_RDWR | os.O_DIRECT)
        except OSError:  # a file system that has none but cached ones
            fd = os.open(file, os.O_RDWR)
        try:
            os.pwrite(fd, page_aligned, 0)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.preadv(fd, [page_aligned], 0)
        finally:
            os.close(fd)


def write_through_cache(size: int, directory: Path | None = None) -> None:
    """Write so many bytes to a file, and have the file system written back."""
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
