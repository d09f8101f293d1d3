"""Hand-assembled code in small ELF files, and the sites that `find_sites` finds in this code."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

from chaosorca.agent.code.elf import Elf
from chaosorca.agent.code.sites import Site, Sites, find_sites

CODE = 0x1000  # offset of the code in the file
MOVED = 0x400000  # address minus offset in the file

SYSCALL = "0f 05"
RET = "c3"
OPENAT = "b8 01 01 00 00"  # mov $257,%eax
CLOSE = "b8 03 00 00 00"  # mov $3,%eax


def code(*parts: str) -> bytes:
    return bytes.fromhex(" ".join(parts))


def elf(
    text: bytes,
    functions: list[tuple[int, int]] | None = None,
    *,
    table: bool = True,
    signals: bool = False,
    machine: int = 62,
    named: list[int] | None = None,
) -> bytes:
    """Return an ELF file with this code.

    Arguments:
        text: the code.
        functions: where each described function begins and ends, as offsets in the code.
        table: whether the file has the sorted table of functions.
        signals: whether the functions return from signal handlers.
        machine: the number of the architecture.
        named: the offsets in the code that have symbols.
    """
    described = functions or []
    size = len(text)
    table_at = CODE + (size + 15) // 16 * 16
    frames_at = table_at + 12 + 8 * len(described)
    augmentation = b"zRS\0" if signals else b"zR\0"
    common = struct.pack("<IB", 0, 1) + augmentation + b"\x01\x78\x10\x01\x1b"
    frames = struct.pack("<I", len(common)) + common
    entries = []
    for begin, end in described:
        at = frames_at + len(frames)
        entries.append((CODE + begin - table_at, at - table_at))
        frames += struct.pack("<IIiIB", 13, at + 4 - frames_at, CODE + begin - at - 8, end - begin, 0)
    header = struct.pack("<BBBBiI", 1, 0x1B, 0x03, 0x3B, 12 - 4 + 8 * len(entries), len(entries))
    unwinding = header + b"".join(struct.pack("<ii", *entry) for entry in entries) + frames + bytes(4)
    segments = [(1, 5, CODE, size), (1, 4, table_at, len(unwinding))]
    if table and described:
        segments.append((0x6474E550, 4, table_at, 12 + 8 * len(entries)))
    names = b"\0.eh_frame\0"
    names_at = frames_at + len(frames) + 4
    symbols = b"".join(struct.pack("<IBBHQQ", 0, 0x12, 0, 1, CODE + MOVED + at, 0) for at in named or [])
    symbols_at = names_at + len(names)
    sections_at = symbols_at + len(symbols)
    sections = [
        (0, 0, 0, 0, 0, 0),
        (0, 1, 6, CODE + MOVED, CODE, size),
        (1, 1, 2, frames_at + MOVED, frames_at, len(frames) + 4),
        (0, 3, 0, 0, names_at, len(names)),
        (0, 11, 2, 0, symbols_at, len(symbols)),
    ]
    beginning = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        3,
        machine,
        1,
        0,
        64,
        sections_at,
        0,
        64,
        56,
        len(segments),
        64,
        len(sections),
        3,
    )
    for kind, flags, offset, length in segments:
        beginning += struct.pack("<IIQQQQQQ", kind, flags, offset, offset + MOVED, offset + MOVED, length, length, 1)
    file = beginning.ljust(CODE, b"\0") + text.ljust(table_at - CODE, b"\0") + unwinding + names + symbols
    return file + b"".join(struct.pack("<IIQQQQIIQQ", *section, 0, 0, 1, 0) for section in sections)


def found(text: bytes, functions: list[tuple[int, int]] | None = None, **how: Any) -> Sites:
    """Return the sites of some code, with offsets in the code. The whole code is one function by default."""
    sites = find_sites(Elf(elf(text, [(0, len(text))] if functions is None else functions, **how)))
    return Sites(
        tuple(replace(site, offset=site.offset - CODE) for site in sites.sites),
        tuple((offset - CODE, why) for offset, why in sites.refused),
        tuple((offset - CODE, what) for offset, what in sites.other),
        tuple((offset - CODE, why) for offset, why in sites.doubtful),
    )


def early(offset: int, to_syscall: int, nr: int, to_next: int, condition: int | None = None) -> Site:
    """Return a site that is earlier than the instruction just before the system call."""
    return Site(offset, to_syscall, nr, None, None, to_next, condition)
