"""Offsets of fields in the running kernel's structures, from its type information (BTF).

The format is described in the kernel's Documentation/bpf/btf.rst: a header, type records, strings.
"""

from __future__ import annotations

import struct
from pathlib import Path

_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")
_MEMBER = struct.Struct("=III")
_STRUCT = 4
_MAGIC = 0xEB9F
# The number of bytes after a type record, by kind: a fixed number, and a number for each member.
_EXTRA = {1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0), 15: (0, 12), 17: (4, 0), 19: (0, 12)}


def member_offsets(btf: bytes, wanted: dict[str, set[str]]) -> dict[str, dict[str, int]]:
    """Return the byte offsets of members of structures.

    Arguments:
        btf: the content of `/sys/kernel/btf/vmlinux`.
        wanted: the names of the wanted members, by structure.

    Returns:
        the offsets by structure and member. Unknown structures and members are left out, and so are bit fields.

    Raises:
        ValueError: the content is not BTF.
    """
    if len(btf) < _HEADER.size:
        raise ValueError("too short to be BTF")
    magic, _version, _flags, header, type_at, type_size, string_at, _string_size = _HEADER.unpack_from(btf)
    if magic != _MAGIC:
        raise ValueError("not BTF of this machine's byte order")
    strings = header + string_at

    def name(offset: int) -> str:
        start = strings + offset
        return btf[start : btf.index(b"\0", start)].decode()

    found: dict[str, dict[str, int]] = {}
    at = header + type_at
    end = at + type_size
    while at < end:
        name_at, info, _size = _TYPE.unpack_from(btf, at)
        at += _TYPE.size
        kind, members = info >> 24 & 0x1F, info & 0xFFFF
        if kind == _STRUCT and (struct_name := name(name_at)) in wanted:
            offsets = found.setdefault(struct_name, {})
            for member_name_at, _type, bits in _MEMBER.iter_unpack(btf[at : at + members * _MEMBER.size]):
                member = name(member_name_at)
                width, offset = (bits >> 24, bits & 0xFFFFFF) if info >> 31 else (0, bits)
                if member in wanted[struct_name] and width == 0 and offset % 8 == 0:
                    offsets[member] = offset // 8
        fixed, each = _EXTRA.get(kind, (0, 0))
        at += fixed + each * members
    return found


def io_accounting_offsets(btf: Path = Path("/sys/kernel/btf/vmlinux")) -> dict[str, int]:
    """Return the offsets of a task's I/O counters, as constants of `bpf/syscalls.c`; empty if the kernel has no BTF."""
    names = {"IOAC_READ": "read_bytes", "IOAC_WRITTEN": "write_bytes", "IOAC_READS": "syscr", "IOAC_WRITES": "syscw"}
    try:
        found = member_offsets(btf.read_bytes(), {"task_struct": {"ioac"}, "task_io_accounting": set(names.values())})
        base, io = found["task_struct"]["ioac"], found["task_io_accounting"]
        return {constant: base + io[member] for constant, member in names.items()}
    except (OSError, ValueError, KeyError):
        return {}
