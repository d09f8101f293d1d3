"""Attaches eBPF programs to instructions of files. With uprobe_multi (Linux 6.6), one call covers many instructions."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from chaosorca.agent.ebpf.program import Program
from chaosorca.agent.linux.libc import last_error, libc

UPROBE_MULTI = 48
"""The attach type BPF_TRACE_UPROBE_MULTI of the kernel, since Linux 6.6."""
_BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
_BPF_LINK_CREATE = 28
_AT_RETURN = 1  # BPF_F_UPROBE_MULTI_RETURN


class Uprobes:
    """A program whose functions are attached to instructions."""

    def __init__(self, load: Callable[[Mapping[str, int]], Program], functions: Sequence[str], one_by_one: bool = False) -> None:
        """Load the program.

        Arguments:
            load: loads the program. Its argument maps functions to their expected attach types.
            functions: the functions to attach.
            one_by_one: use a perf event for each instruction, as kernels before Linux 6.6 require.

        Raises:
            AgentError: the kernel refuses the program.
        """
        self.at_once = not one_by_one
        if self.at_once:
            self.program = load(dict.fromkeys(functions, UPROBE_MULTI))
            if supports_uprobe_multi(self.program.fd(functions[0])):
                return
            self.program.close()
            self.at_once = False
        self.program = load({})

    def attach(self, function: str, path: Path, places: Sequence[tuple[int, int]], at_return: bool = False) -> Callable[[], None]:
        """Attach a function to instructions of a file: either to all of them or, after an error, to none.

        Arguments:
            function: the function's name.
            path: the file.
            places: the offset of each instruction in the file, with its cookie.
            at_return: run the program at the returns of the functions that begin at the offsets.

        Returns:
            a function that detaches from all instructions.

        Raises:
            OSError: the kernel refuses it.
        """
        if self.at_once:
            offsets, cookies = [offset for offset, _ in places], [cookie for _, cookie in places]
            link = attach_uprobes(self.program.fd(function), str(path), offsets, cookies, at_return)
            return lambda: os.close(link)
        with contextlib.ExitStack() as attached:
            for offset, cookie in places:
                attached.callback(self.program.detach, self.program.attach_uprobe(function, str(path), offset, cookie, at_return))
            return attached.pop_all().close


def supports_uprobe_multi(program: int) -> bool:
    """Return whether this kernel attaches a program to many instructions in one call.

    The function tries to attach to a directory. A kernel with uprobe_multi returns EBADF. An older kernel returns another error.
    """
    try:
        os.close(attach_uprobes(program, "/", [0], [0]))
    except OSError as error:
        return error.errno == errno.EBADF
    return True


def attach_uprobes(program: int, path: str, offsets: list[int], cookies: list[int], at_return: bool = False) -> int:
    """Attach a program to instructions of a file by one uprobe_multi link (bpf(2), BPF_LINK_CREATE).

    Arguments:
        program: the program's descriptor.
        path: the file.
        offsets: the instructions' offsets in the file, in bytes.
        cookies: the value of `bpf_get_attach_cookie()` at each instruction.
        at_return: run the program at the returns of the functions that begin at the offsets.

    Returns:
        a descriptor. Closing it detaches the program.

    Raises:
        OSError: the kernel refuses it.
    """
    name = ctypes.create_string_buffer(path.encode())
    offsets_array = (ctypes.c_uint64 * len(offsets))(*offsets)
    cookies_array = (ctypes.c_uint64 * len(cookies))(*cookies)
    addresses = (ctypes.addressof(name), ctypes.addressof(offsets_array), 0, ctypes.addressof(cookies_array))
    flags = _AT_RETURN if at_return else 0
    attributes = struct.pack("=IIIIQQQQIIQ", program, 0, UPROBE_MULTI, 0, *addresses, len(offsets), flags, 0)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    fd = libc.syscall(_BPF_SYSCALL[platform.machine()], _BPF_LINK_CREATE, buffer, len(attributes))
    if fd < 0:
        raise last_error(f"attaching uprobes to {path}")
    return int(fd)
