"""Puts functions of a program on instructions of files: on all at once where the kernel can (Linux 6.6), else one by one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from chaosorca.agent import kernel
from chaosorca.agent.libbpf import Program


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
