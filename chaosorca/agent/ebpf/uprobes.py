"""Puts functions of a program on instructions of files: on all at once where the kernel can (Linux 6.6), else one by one."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from chaosorca.agent.ebpf.program import Program
from chaosorca.agent.linux import packet_socket as kernel
from chaosorca.agent.linux.proc import FileId

_MOST_KNOWN = 4096


class Identities:
    """What files are known by that probes are on. A place with two probes would have each of its calls counted twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[FileId, tuple[FileId, tuple[int, int]]] = {}

    def of(self, path: Path, has_probes: Callable[[FileId], bool]) -> FileId:
        """What containers of one image have in common of a file, which each sees on a device of its own: its number, and when it
        was last changed, to the nanosecond. While it has probes that stays, whatever becomes of its owner, mode and names; but not
        on an overlay, where a change of these may make it another file of the same number.

        Arguments:
            has_probes: tells whether there are any on what is known by this.

        Raises:
            OSError: it cannot be looked at.
        """
        status = path.stat()
        here = status.st_dev, status.st_ino
        identity, content = (status.st_ino, status.st_ctime_ns), (status.st_size, status.st_mtime_ns)
        with self._lock:
            before, content_before = self._known.pop(here, (identity, content))
            if content == content_before and _is_always_the_same(status.st_dev) and has_probes(before):
                identity = before
            self._known[here] = identity, content  # the last one now
            while len(self._known) > _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            return identity


def _is_always_the_same(device: int) -> bool:
    """Whether a file that keeps its number there is the same file: overlays have no device."""
    return os.major(device) != 0


class Uprobes:
    """A program whose functions are put on instructions."""

    def __init__(self, load: Callable[[Mapping[str, int]], Program], functions: Sequence[str], one_by_one: bool = False) -> None:
        """Load it.

        Arguments:
            load: loads the program, with the kernel's number of the expected attach type of functions, by their names.
            functions: those that are put on instructions.
            one_by_one: do so by a perf event for each place, as it has to be before Linux 6.6.

        Raises:
            AgentError: the kernel does not take the program.
        """
        self.at_once = not one_by_one
        if self.at_once:
            self.program = load(dict.fromkeys(functions, kernel.UPROBE_MULTI))
            if kernel.takes_many_uprobes(self.program.fd(functions[0])):
                return
            self.program.close()
            self.at_once = False
        self.program = load({})

    def put(self, function: str, path: Path, places: Sequence[tuple[int, int]], at_return: bool = False) -> Callable[[], None]:
        """Put a function on instructions of a file, all or none; return what takes it away from them.

        Arguments:
            places: the offset in the file of each, and the number that the function is told there.
            at_return: the instructions begin functions, and ours is run when these return.

        Raises:
            OSError: the kernel refuses it.
        """
        if self.at_once:
            offsets, cookies = [offset for offset, _ in places], [cookie for _, cookie in places]
            link = kernel.attach_uprobes(self.program.fd(function), str(path), offsets, cookies, at_return)
            return lambda: os.close(link)
        with contextlib.ExitStack() as put:
            for offset, cookie in places:
                put.callback(self.program.detach, self.program.attach_uprobe(function, str(path), offset, cookie, at_return))
            return put.pop_all().close
