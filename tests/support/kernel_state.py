"""Objects of chaosorca in the kernel: eBPF programs, their links, and breakpoints in the code of processes."""

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
_NEXT_PROGRAM, _NEXT_LINK, _OPEN_PROGRAM, _OPEN_LINK, _GET_INFO = 11, 31, 13, 30, 15  # commands of bpf(2)
_NAME_AT, _NAME_BYTES = 64, 16  # in struct bpf_prog_info
_INFO_BYTES = 256
_FUNCTION = re.compile(r'^SEC\("(?:uprobe|socket|syscall|raw_tp/\w+)"\)\nint (\w+)\(', re.MULTILINE)
_BREAKPOINT, _PAGE = 0xCC, 4096
_libc = ctypes.CDLL(None, use_errno=True)


def programs() -> dict[int, str]:
    """Return the names of chaosorca's programs by id. Each probe keeps its program loaded, so no programs means no probes."""
    sources = (ROOT / "chaosorca" / "agent" / "bpf").glob("*.[ch]")
    ours = {name[: _NAME_BYTES - 1] for path in sources for name in _FUNCTION.findall(path.read_text())}
    found = {}
    for id_, info in _all(_NEXT_PROGRAM, _OPEN_PROGRAM):
        name = info[_NAME_AT : _NAME_AT + _NAME_BYTES].partition(b"\0")[0].decode()
        if name in ours:
            found[id_] = name
    return found


def links(function: str, but: Collection[int] = ()) -> set[int]:
    """Return the ids of the links of one of chaosorca's functions. `at_site` has one link for each probed system call of each file.

    Arguments:
        function: the function's name.
        but: ids of programs to leave out, such as the programs of another engine's agent.
    """
    wanted = {id_ for id_, name in programs().items() if name == function and id_ not in but}
    return {id_ for id_, info in _all(_NEXT_LINK, _OPEN_LINK) if struct.unpack_from("=III", info)[2] in wanted}


def breakpoints(pids: Collection[int]) -> list[str]:
    """Return the places of uprobes in processes. There the code in memory has a breakpoint, but the file has none."""
    return [f"a breakpoint in process {pid} at {place}" for pid in pids for place in _changed_code(pid)]


def _changed_code(pid: int) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the process has ended
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
    """Yield the id of each program or link, and the kernel's information about it."""
    id_ = 0
    with contextlib.suppress(FileNotFoundError):  # there are no more
        while True:
            request = ctypes.create_string_buffer(struct.pack("=III", id_, 0, 0), 12)
            _bpf(following, request)
            _, id_, _ = struct.unpack("=III", request.raw)
            with contextlib.suppress(FileNotFoundError):  # this one has gone in the meantime
                yield id_, _info(opening, id_)


def _info(opening: int, id_: int) -> bytes:
    fd = _bpf(opening, ctypes.create_string_buffer(struct.pack("=III", id_, 0, 0), 12))
    try:
        info = ctypes.create_string_buffer(_INFO_BYTES)
        _bpf(_GET_INFO, ctypes.create_string_buffer(struct.pack("=IIQ", fd, _INFO_BYTES, ctypes.addressof(info)), 16))
        return info.raw
    finally:
        os.close(fd)


def _bpf(command: int, request: ctypes.Array[ctypes.c_char]) -> int:
    result = int(_libc.syscall(_BPF[platform.machine()], command, request, len(request)))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf command {command}: {os.strerror(ctypes.get_errno())}")
    return result
