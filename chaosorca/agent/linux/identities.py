"""Identities of files. A file's identity is the same in all containers of one image."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from chaosorca.agent.linux.proc import FileId

_MAX_ENTRIES = 4096


class Identities:
    """Gives each file one identity, so that each file is probed once. Two probes at one instruction would count each call twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards `_entries`
        self._entries: dict[FileId, tuple[FileId, tuple[int, int]]] = {}  # by device and inode, least recently used first

    def of(self, path: Path, has_probes: Callable[[FileId], bool]) -> FileId:
        """Return the identity of a file: its inode number, and the time of its last change in nanoseconds.

        Containers of one image see the same file on different devices, but with the same inode and time. A change of owner, mode or
        links also changes the time. A probed file keeps its identity after such a change, unless it is on an overlay. On
        an overlay, the change may copy the file, and the copy has the same inode number.

        Arguments:
            path: the file.
            has_probes: returns whether the file with the given identity has probes.

        Raises:
            OSError: the file cannot be examined.
        """
        status = path.stat()
        here = status.st_dev, status.st_ino
        identity, content = (status.st_ino, status.st_ctime_ns), (status.st_size, status.st_mtime_ns)
        with self._lock:
            before, content_before = self._entries.pop(here, (identity, content))
            if content == content_before and _has_stable_inodes(status.st_dev) and has_probes(before):
                identity = before
            self._entries[here] = identity, content
            while len(self._entries) > _MAX_ENTRIES:
                del self._entries[next(iter(self._entries))]
            return identity


def _has_stable_inodes(device: int) -> bool:
    """Return whether an inode number always identifies one file on the device. On an overlay (major number 0) it does not."""
    return os.major(device) != 0
