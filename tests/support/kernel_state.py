"""What the kernel holds of ours: eBPF programs, the links that put them on something, and probes in the code of processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import struct
from collections.abc import Collection, Iterator
from pathlib import Path

from tests.support.project import ROOT

_BPF = {"x86_64": 321, "aarch64": 280}
_NEXT_PROGRAM, _NEXT_LINK, _OPEN_PROGRAM, _OPEN_LINK, _TELL = 11, 31, 13, 30, 15  # commands of bpf(2)
_NAME_AT, _NAME_BYTES = 64, 16  # in struct bpf_prog_info
_INFO_BYTES = 256
_FUNCTION = re.compile(r'^SEC\("(?:uprobe|socket|syscall|raw_tp/\w+)"\)\nint (\w+)\(', re.MULTILINE)
_BREAKPOINT, _PAGE = 0xCC, 4096
_libc = ctypes.CDLL(None, use_errno=True)


def programs() -> dict[int, str]:
    """Our programs by their ids. Whatever a program is attached to keeps it, so that where none is left no probe is either."""
    sources = (ROOT / "chaosorca" / "agent" / "bpf").glob("*.[ch]")
    ours = {name[: _NAME_BYTES - 1] for path in sources for name in _FUNCTION.findall(path.read_text())}
    found = {}
    for id_, info in _all(_NEXT_PROGRAM, _OPEN_PROGRAM):
        name = info[_NAME_AT : _NAME_AT + _NAME_BYTES].partition(b"\0")[0].decode()
        if name in ours:
            found[id_] = name
    return found


def links(function: str, but: Collection[int] = ()) -> set[int]:
    """The ids of the links that put a function of ours somewhere: of `at_site`, one for each file and system call that has probes.

    Arguments:
        but: ids of programs whose links are not meant, as those of another engine's agent.
    """
    wanted = {id_ for id_, name in programs().items() if name == function and id_ not in but}
    return {id_ for id_, info in _all(_NEXT_LINK, _OPEN_LINK) if struct.unpack_from("=III", info)[2] in wanted}


def breakpoints(pids: Collection[int]) -> list[str]:
    """Where code that processes execute has a breakpoint that the file has not from which it is: that is what a uprobe is."""
    return [f"a breakpoint in process {pid} at {place}" for pid in pids for place in _changed_code(pid)]


def _changed_code(pid: int) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, access, offset, _, inode, *path = line.split(maxsplit=5)
            if "x" not in access or inode == "0":
                continue
            begin, end = (int(address, 16) for address in place.split("-"))
            with open(f"/proc/{pid}/root{path[0]}", "rb") as file, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                there = os.pread(file.fileno(), end - begin, int(offset, 16))
                here = os.pread(memory.fileno(), len(there), begin)
            for page in range(0, len(there), _PAGE):
                if here[page : page + _PAGE] != there[page : page + _PAGE]:
                    both = enumerate(
                        zip(here[page : page + _PAGE], there[page : page + _PAGE], strict=True), int(offset, 16) + page
                    )
                    yield from (f"{path[0]} + {at:#x}" for at, (now, then) in both if now != then and now == _BREAKPOINT)


def _all(following: int, opening: int) -> Iterator[tuple[int, bytes]]:
    """The id of each program or link, and what the kernel tells of it."""
    id_ = 0
    with contextlib.suppress(FileNotFoundError):  # that was the last
        while True:
            request = ctypes.create_string_buffer(struct.pack("=III", id_, 0, 0), 12)
            _bpf(following, request)
            _, id_, _ = struct.unpack("=III", request.raw)
            with contextlib.suppress(FileNotFoundError):  # it has gone meanwhile
                yield id_, _told(opening, id_)


def _told(opening: int, id_: int) -> bytes:
    fd = _bpf(opening, ctypes.create_string_buffer(struct.pack("=III", id_, 0, 0), 12))
    try:
        info = ctypes.create_string_buffer(_INFO_BYTES)
        _bpf(_TELL, ctypes.create_string_buffer(struct.pack("=IIQ", fd, _INFO_BYTES, ctypes.addressof(info)), 16))
        return info.raw
    finally:
        os.close(fd)


def _bpf(command: int, request: ctypes.Array[ctypes.c_char]) -> int:
    result = int(_libc.syscall(_BPF[platform.machine()], command, request, len(request)))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf command {command}: {os.strerror(ctypes.get_errno())}")
    return result
