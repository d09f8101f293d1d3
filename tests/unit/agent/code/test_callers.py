"""The system calls that a file makes by the C library's `syscall()`: hand-assembled callers in small shared libraries."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

pytest.importorskip("capstone")

from chaosorca.agent.code.callers import numbers_passed, syscall_function
from chaosorca.agent.code.elf import Elf

TEXT, PLT, TABLE, FRAMES, REST = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000
GLOB_DAT, JUMP_SLOT, ABSOLUTE = 6, 7, 1
RET, SET, OTHER = "c3", "bf ba 00 00 00", "bf 27 00 00 00"  # mov $186,%edi; mov $39,%edi


def to(opcode: str, target: int) -> str:
    """Return an instruction with a displacement, which `library` fills in."""
    return f"{opcode} @{target:x}"


CALL, JUMP = to("e8", PLT), to("e9", PLT)


def library(
    *functions: list[str],
    imported: bytes = b"syscall",
    defined: bytes = b"",
    how: int = JUMP_SLOT,
    plt: str = to("ff 25", TABLE),
    constants: bytes = b"",
    value: int = 0,
    named: bytes = b"",
) -> Elf:
    """Return a shared library with these functions, one entry of a linkage table, and one relocation for the imported symbol."""
    text, bounds = bytearray(), []
    for function in functions:
        begin = len(text)
        for instruction in function:
            text += assembled(instruction, TEXT + len(text))
        bounds.append((TEXT + begin, len(text) - begin))
    names = b"\0" + imported + b"\0" + (defined + b"\0" if defined else b"") + named
    symbols = [(0, 0, 0), (1, 0, value)] + ([(2 + len(imported), 1, TEXT)] if defined else [])
    frames = struct.pack("<IIB", 13, 0, 1) + b"zR\0\x01\x78\x10\x01\x1b"
    for begin, size in bounds:
        at = FRAMES + len(frames)
        frames += struct.pack("<IIiIB", 13, at + 4 - FRAMES, begin - at - 8, size, 0)
    header_names = b"\0.eh_frame\0.plt.sec\0"
    parts = [
        (0, 0, 0, b"", 0),
        (0, 1, TEXT, bytes(text), 0),
        (11, 1, PLT, assembled(plt, PLT), 0),
        (1, 1, FRAMES, frames + bytes(4), 0),
        (0, 3, 0, names, 0),
        (0, 11, 0, b"".join(struct.pack("<IBBHQQ", name, 0x12, 0, where, at, 0) for name, where, at in symbols), 4),
        (0, 4, 0, struct.pack("<QQq", TABLE, 1 << 32 | how, 0), 5),
        (0, 1, 0, constants, 0),
        (0, 3, 0, header_names, 0),
    ]
    data = bytearray(REST)
    sections = []
    for name, kind, address, content, link in parts:
        at = address or len(data)
        data[at : at + len(content)] = content
        code = 4 if address in (TEXT, PLT) else 0
        sections.append(struct.pack("<IIQQQQIIQQ", name, kind, 2 | code, address, at, len(content), link, 0, 1, 0))
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, len(data), len(data), 0x1000)
    sections_at = len(data) + len(segment)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        3,
        62,
        1,
        0,
        len(data),
        sections_at,
        0,
        64,
        56,
        1,
        64,
        len(parts),
        len(parts) - 1,
    )
    data[: len(header)] = header
    return Elf(bytes(data + segment + b"".join(sections)))


def assembled(instruction: str, address: int) -> bytes:
    opcode, _, target = instruction.partition("@")
    code = bytes.fromhex(opcode)
    return code + struct.pack("<i", int(target, 16) - address - len(code) - 4) if target else code


@pytest.mark.parametrize(
    ("file", "numbers"),
    [
        (library([SET, CALL, RET]), {186}),
        (library([SET, CALL, RET], [OTHER, "31 c0", CALL, RET]), {186, 39}),
        (library([SET, JUMP]), {186}),
        (library([SET, to("0f 85", PLT), RET]), {186}),
        (library([SET, to("ff 15", TABLE), RET], how=GLOB_DAT), {186}),
        (library([SET, to("ff 25", TABLE)], how=GLOB_DAT), {186}),
        (library([SET, to("e8", PLT - 4), RET], plt="90"), set()),
        (library([SET, CALL, RET], plt=to("f3 0f 1e fa ff 25", TABLE)), {186}),
        (library([SET, CALL, RET], plt=to("f3 0f 1e fa f2 ff 25", TABLE)), {186}),
        (library(["eb 05", SET, OTHER, CALL, RET]), {39}),
        (library(["75 07", SET, "eb 05", OTHER, CALL, RET]), {186, 39}),
        (library([SET, RET]), set()),
        (library([CALL, RET], imported=b"write"), set()),
        (library([CALL, RET], imported=b"write", named=b"syscall\0"), set()),
        (library(["0f 05", RET], imported=b"write", defined=b"syscall"), set()),
    ],
)
def test_numbers(file: Elf, numbers: set[int]) -> None:
    assert numbers_passed(file) == numbers


@pytest.mark.parametrize(
    "file",
    [
        library(["48 89 c7", CALL, RET]),
        library([CALL, RET]),
        library([SET, CALL, "89 df", CALL, RET]),
        library([SET, CALL, RET], how=ABSOLUTE),
        library([to("48 8b 05", TABLE), SET, "ff d0", RET], how=GLOB_DAT),
        library([to("ff 35", TABLE), RET], how=GLOB_DAT),
        library([to("48 8d 3d", PLT), RET]),
        library([SET, CALL, RET], value=PLT),
        library([RET], imported=b"dlsym", constants=b"open\0syscall\0"),
        library([RET], imported=b"write", defined=b"ffi_call"),
    ],
    ids=["a register", "an argument", "once", "a pointer", "loaded", "pushed", "address", "value", "by name", "libffi"],
)
def test_numbers_that_are_unknown(file: Elf) -> None:
    assert numbers_passed(file) is None


def test_where_the_function_is() -> None:
    assert syscall_function(library(["0f 05", RET], [RET], defined=b"syscall")) == range(TEXT, TEXT + 3)
    assert syscall_function(library([RET])) == range(0)


def test_programs_of_this_machine() -> None:
    library_of_c = next(Path("/lib").glob("*/libc.so.6"), None) or pytest.skip("a machine without glibc")
    assert syscall_function(Elf(library_of_c.read_bytes()))
    assert numbers_passed(Elf(library_of_c.read_bytes())) == set()
