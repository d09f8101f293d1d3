"""Where code makes its system calls: hand-assembled instructions in small ELF files, and this machine's C library."""

from __future__ import annotations

import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("capstone")

from chaosorca.agent.code.elf import Elf
from chaosorca.agent.code.sites import Site, Sites, find_sites

CODE = 0x1000  # where the code is in the file
MOVED = 0x400000  # how much higher its addresses are

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
    """An ELF file with this code, a description of these functions by their first and last offset in it, and names for offsets."""
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
    """What is found in this code (one function, when nothing else is said), by offsets in it."""
    sites = find_sites(Elf(elf(text, [(0, len(text))] if functions is None else functions, **how)))
    return Sites(
        tuple(replace(site, offset=site.offset - CODE) for site in sites.sites),
        tuple((offset - CODE, why) for offset, why in sites.refused),
        tuple((offset - CODE, what) for offset, what in sites.other),
        tuple((offset - CODE, why) for offset, why in sites.doubtful),
    )


@pytest.mark.parametrize(
    ("text", "sites"),
    [
        pytest.param(code(OPENAT, SYSCALL, RET), [Site(0, 5, 257, None)], id="mov $nr,%eax"),
        pytest.param(code("48 c7 c0 0f 00 00 00", SYSCALL), [Site(0, 7, 15, None)], id="mov $nr,%rax"),
        pytest.param(code("31 c0", SYSCALL, RET), [Site(0, 2, 0, None)], id="xor %eax,%eax"),
        pytest.param(code("6a 3b 58", SYSCALL, RET), [Site(2, 1, 59, None)], id="push, pop"),
        pytest.param(code("6a 3b 31 ff 58", SYSCALL, RET), [Site(4, 1, 59, None)], id="push, something, pop"),
        pytest.param(code(OPENAT, "31 ff", SYSCALL, RET), [Site(5, 2, 257)], id="set before"),
        pytest.param(code(OPENAT, "90", SYSCALL, RET), [Site(5, 1, 257)], id="a no-operation that is executed"),
        pytest.param(
            code("41 b8 ca 00 00 00", "31 d2", "44 89 c0", SYSCALL, RET), [Site(8, 3, 202, "r8")], id="set in another register"
        ),
        pytest.param(code("31 d2", "44 89 c0", SYSCALL, RET), [Site(2, 3, None, "r8")], id="comes in another register"),
        pytest.param(code("48 63 c7", SYSCALL, RET), [Site(0, 3, None, "rdi")], id="comes as a signed number"),
        pytest.param(code("48 89 f7", SYSCALL, RET), [Site(0, 3, None)], id="comes in %rax"),
        pytest.param(code("8b 03", SYSCALL, RET), [Site(0, 2, None, "rbx", 0)], id="comes in memory"),
        pytest.param(code("48 8b 44 24 08", SYSCALL, RET), [Site(0, 5, None, "rsp", 8)], id="comes on the stack"),
        pytest.param(code("8b 45 f8", SYSCALL, RET), [Site(0, 3, None, "rbp", -8)], id="comes in a local variable"),
        pytest.param(code(OPENAT, "89 d8", "31 ff", SYSCALL), [Site(7, 2, None)], id="set and then changed"),
        pytest.param(code(OPENAT, "b0 02", "31 ff", SYSCALL), [Site(7, 2, None)], id="set and then changed in part"),
        pytest.param(code("b0 02", SYSCALL), [Site(0, 2, 2, None)], id="set in part: the tracer looks at the whole"),
        pytest.param(code(OPENAT, "87 c3", "31 ff", SYSCALL), [Site(7, 2, None)], id="set and then exchanged"),
        pytest.param(code(OPENAT, "e8 00 00 00 00", "31 ff", SYSCALL), [Site(10, 2, None)], id="set and then called"),
        pytest.param(
            code("bb 03 00 00 00", "e8 00 00 00 00", "89 d8", SYSCALL),
            [Site(10, 2, 3, "rbx")],
            id="kept by a register across a call",
        ),
        pytest.param(
            code("41 b8 03 00 00 00", "e8 00 00 00 00", "44 89 c0", SYSCALL), [Site(11, 3, None, "r8")], id="lost across a call"
        ),
        pytest.param(
            code(CLOSE, SYSCALL, "31 ff", SYSCALL), [Site(0, 5, 3, None), Site(7, 2, None)], id="the result of another system call"
        ),
        pytest.param(  # je 1f; mov $257,%eax; jmp 2f; 1: mov $3,%eax; 2: xor %edi,%edi; syscall
            code("74 07", OPENAT, "eb 05", CLOSE, "31 ff", SYSCALL), [Site(14, 2, None)], id="two numbers on two ways"
        ),
        pytest.param(  # mov; jrcxz 1f; mov; 1: xor; syscall
            code(CLOSE, "e3 05", CLOSE, "31 ff", SYSCALL), [Site(12, 2, 3)], id="the same number on two ways"
        ),
        pytest.param(  # 1: xor %edx,%edx; mov %r8d,%eax; syscall; test %eax,%eax; jne 1b
            code("41 b8 ca 00 00 00", "31 d2", "44 89 c0", SYSCALL, "85 c0", "75 f5", RET), [Site(8, 3, 202, "r8")], id="a loop"
        ),
        pytest.param(  # mov; jmp 1f; xor; 1: syscall. Nothing leads to the xor, but a table of jumps might.
            code(OPENAT, "eb 02", "31 ff", SYSCALL), [Site(5, 4, 257), Site(7, 2, None)], id="jumped to"
        ),
        pytest.param(
            code(OPENAT, "74 02", "31 ff", SYSCALL),
            [Site(5, 4, 257, None, None, 2, 5), Site(5, 4, 257, condition=4)],
            id="jumped to on a condition",
        ),
        pytest.param(code(OPENAT, "e3 02", "31 ff", SYSCALL), [Site(5, 4, 257), Site(7, 2, 257)], id="jumped to by jrcxz"),
        pytest.param(code(OPENAT, "74 00", SYSCALL), [Site(5, 2, 257)], id="jumped to either way"),
        pytest.param(  # jmp 2f; 1: ret, nop; 2: mov $3; 3: xor; syscall; jmp backwards to the system call
            code(CLOSE, "31 ff", SYSCALL, OPENAT, "eb f7"), [Site(5, 2, 3), Site(14, -7, 257)], id="jumped to backwards"
        ),
        pytest.param(
            code(OPENAT, "0f 84 02 00 00 00", "31 ff", SYSCALL),
            [Site(5, 8, 257, None, None, 6, 5), Site(5, 8, 257, condition=4)],
            id="a far jump",
        ),
        pytest.param(  # mov; je 1f; ret; nop; 1: syscall
            code(OPENAT, "74 04", RET, "0f 1f 00", SYSCALL), [Site(5, 6, 257, condition=4)], id="filled up between blocks"
        ),
        pytest.param(code(OPENAT, "74 02", RET, "90", "90", SYSCALL), [Site(9, 1, 257)], id="a no-operation that is jumped to"),
        pytest.param(code(OPENAT) + bytes([0x90]) * 3000 + code(SYSCALL), [Site(3004, 1, 257)], id="many no-operations"),
        pytest.param(code("b8 0f 05 00 00", "90", RET), [], id="within a number"),
        pytest.param(code("8d 05 0f 05 00 00", RET), [], id="within an address"),
        pytest.param(code("e8 00 00 0f 05", RET), [], id="within a call"),
    ],
)
def test_sites(text: bytes, sites: list[Site]) -> None:
    assert found(text) == Sites(tuple(sites), (), ())


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        (code(SYSCALL, RET), 0, "a function begins with it"),
        (code(CLOSE, SYSCALL, SYSCALL, RET), 7, "the instruction before it is syscall"),
        (code("e8 00 00 00 00", SYSCALL, RET), 5, "the instruction before it is call"),
        (code("83 c0 02", SYSCALL, RET), 3, "(add eax, 2) computes the number"),
        (code("8b 05 00 00 00 00", SYSCALL, RET), 6, "computes the number"),
        (code(CLOSE, "f0 ff 03", SYSCALL, RET), 8, "a prefix that the kernel puts no probe on"),
        (code(CLOSE, "f3 a4", SYSCALL, RET), 7, "is repeated"),
        (code(CLOSE, "0f 1f 44 00 00", SYSCALL, RET), 10, "is a no-operation of 5 bytes"),
        (code("c3 0f 1f 00", SYSCALL, RET), 4, "no instruction is known to lead to it"),
    ],
)
def test_what_cannot_be_probed_is_told(text: bytes, where: int, reason: str) -> None:
    refused = found(text).refused
    assert [offset for offset, _ in refused] == [where]
    assert reason in refused[0][1]


PUSH = "55"
XOR = "31 ff"
LEA = "48 8d bf 00 00 00 00"
CALL = "e8 00 00 00 00"


def early(offset: int, to_syscall: int, nr: int, to_next: int, condition: int | None = None) -> Site:
    """A site that is not on the instruction just before the call."""
    return Site(offset, to_syscall, nr, None, None, to_next, condition)


@pytest.mark.parametrize(
    ("text", "sites"),
    [
        pytest.param(code(PUSH, OPENAT, SYSCALL), [early(0, 6, 257, 1)], id="push"),
        pytest.param(code("41 54", OPENAT, XOR, SYSCALL), [early(0, 9, 257, 2)], id="push of a new register"),
        pytest.param(code("eb 02 cc cc", OPENAT, XOR, SYSCALL), [early(0, 11, 257, 4)], id="jmp"),
        pytest.param(code("e9 01 00 00 00 cc", OPENAT, SYSCALL), [early(0, 11, 257, 6)], id="a far jmp"),
        pytest.param(code("74 02 c3 cc", OPENAT, SYSCALL), [early(0, 9, 257, 4, 4)], id="jcc that jumps"),
        pytest.param(code("75 08", OPENAT, SYSCALL, RET, RET), [early(0, 7, 257, 2, 4)], id="jcc that does not jump"),
        pytest.param(code("0f 8f 02 00 00 00 c3 cc", OPENAT, SYSCALL), [early(0, 13, 257, 8, 15)], id="a far jcc that jumps"),
        pytest.param(
            code("0f 8f 08 00 00 00", OPENAT, SYSCALL, RET, RET), [early(0, 11, 257, 6, 14)], id="a far jcc that does not jump"
        ),
        pytest.param(code("74 00", OPENAT, SYSCALL), [early(0, 7, 257, 2)], id="jcc that leads there either way"),
        pytest.param(code(OPENAT, PUSH, SYSCALL), [Site(5, 1, 257)], id="just before the call"),
        pytest.param(code(PUSH, "50", OPENAT, SYSCALL), [early(1, 6, 257, 1)], id="the nearest"),
        pytest.param(  # je 1f; mov; jmp 2f; 1: mov; 2: xor; syscall
            code("74 07", CLOSE, "eb 05", CLOSE, XOR, SYSCALL),
            [early(0, 16, 3, 9, 4), early(7, 9, 3, 7)],
            id="a join of early ways",
        ),
        pytest.param(  # je 1f; xor; 1: mov; syscall
            code("74 02", XOR, OPENAT, SYSCALL),
            [early(0, 9, 257, 4, 4), early(0, 9, 257, 2, 5)],
            id="a join of both ways from a jump",
        ),
        pytest.param(code("74 05", CALL, OPENAT, SYSCALL), [Site(7, 5, 257, None)], id="a join of which one way is not early"),
        pytest.param(code("74 02", "e3 00", OPENAT, SYSCALL), [Site(4, 5, 257, None)], id="a join with jrcxz"),
        pytest.param(  # eight, and the ninth, of jumps to one place
            code(*(f"7{n} {2 * (7 - n):02x}" for n in range(8)), OPENAT, SYSCALL),
            [early(2 * n, 21 - 2 * n, 257, 16 - 2 * n, n) for n in range(7)] + [early(14, 7, 257, 2)],
            id="eight beginnings",
        ),
        pytest.param(
            code(*(f"7{n} {2 * (8 - n):02x}" for n in range(9)), OPENAT, SYSCALL), [Site(18, 5, 257, None)], id="nine beginnings"
        ),
        pytest.param(  # je 1f; mov $257,%eax; xor; syscall; ret; 1: mov $3,%eax; syscall
            code("74 0a", OPENAT, XOR, SYSCALL, RET, CLOSE, SYSCALL),
            [early(0, 9, 257, 2, 5), early(0, 17, 3, 12, 4)],
            id="a jump to two calls",
        ),
        pytest.param(code(PUSH, CALL, OPENAT, XOR, SYSCALL), [Site(11, 2, 257)], id="a call between"),
        pytest.param(code(PUSH, CLOSE, SYSCALL, XOR, OPENAT, SYSCALL), [early(0, 6, 3, 1), Site(10, 5, 257, None)], id="two calls"),
        pytest.param(code(PUSH, OPENAT, "f3 a4", XOR, SYSCALL), [Site(8, 2, 257)], id="repeated between"),
        pytest.param(code(PUSH, OPENAT, "8e d0", XOR, SYSCALL), [Site(8, 2, 257)], id="mov to %ss between"),
        pytest.param(code(PUSH, "9d", OPENAT, SYSCALL), [Site(2, 5, 257, None)], id="popf between"),
        pytest.param(code(CALL, "90", OPENAT, SYSCALL), [Site(6, 5, 257, None)], id="filled up behind a call that may not return"),
        pytest.param(code(PUSH, OPENAT, LEA * 8, "48 89 ff", SYSCALL), [early(0, 65, 257, 1)], id="64 bytes"),
        pytest.param(code(PUSH, OPENAT, LEA * 8, "48 8d 7f 00", SYSCALL), [Site(62, 4, 257)], id="65 bytes"),
        pytest.param(code(PUSH, OPENAT, XOR * 15, SYSCALL), [early(0, 36, 257, 1)], id="16 instructions"),
        pytest.param(code(PUSH, OPENAT, XOR * 16, SYSCALL), [Site(36, 2, 257)], id="17 instructions"),
        pytest.param(code("e9 f7 7f 00 00", "cc" * 0x7FF7, OPENAT, SYSCALL), [Site(0x7FFC, 5, 257, None)], id="far away"),
        pytest.param(code("e9 f5 7f 00 00", "cc" * 0x7FF5, OPENAT, SYSCALL), [early(0, 0x7FFF, 257, 0x7FFA)], id="not as far"),
        pytest.param(code(PUSH, "89 f8", XOR, SYSCALL), [Site(3, 2, None)], id="a number that the code does not tell"),
        pytest.param(code(PUSH, "b0 02", SYSCALL), [Site(1, 2, 2, None)], id="a number that is set in part"),
        pytest.param(code(PUSH, OPENAT, "f0 ff 03", SYSCALL), [early(0, 9, 257, 1)], id="the one just before is refused"),
        pytest.param(code(PUSH, OPENAT, "0f 1f 44 00 00", SYSCALL), [early(0, 11, 257, 1)], id="the one just before is replaced"),
        pytest.param(code(PUSH, "b8 09 00 00 00", XOR, SYSCALL), [early(0, 8, 9, 1)], id="mmap"),
        pytest.param(code(PUSH, "b8 09 00 00 00", "31 d2", SYSCALL), [Site(6, 2, 9)], id="mmap, whose protection is set later"),
        pytest.param(code(PUSH, OPENAT, SYSCALL, "ff 25 00 00 00 00"), [early(0, 6, 257, 1)], id="a jump to another library"),
        pytest.param(code(PUSH, OPENAT, SYSCALL, "48 83 f8 ff 64 c3"), [early(0, 6, 257, 1)], id="no jump by a table"),
        pytest.param(code(PUSH, OPENAT, SYSCALL, "ff e0"), [Site(1, 5, 257, None)], id="a jump to a register"),
        pytest.param(code(PUSH, OPENAT, SYSCALL, "3e 41 ff e1"), [Site(1, 5, 257, None)], id="a jump to a new register"),
        pytest.param(code(PUSH, OPENAT, SYSCALL, "ff 24 c5 00 00 00 00"), [Site(1, 5, 257, None)], id="a jump by a table"),
    ],
)
def test_further_ahead_where_the_kernel_emulates(text: bytes, sites: list[Site]) -> None:
    assert found(text) == Sites(tuple(sites), (), ())


@pytest.mark.parametrize("condition", range(16))
def test_conditions(condition: int) -> None:
    near = code(f"7{condition:x} 08", OPENAT, SYSCALL, RET, CLOSE, SYSCALL)
    assert found(near).sites == (early(0, 7, 257, 2, condition ^ 1), early(0, 15, 3, 10, condition))
    assert found(code(OPENAT, f"0f 8{condition:x} 01 00 00 00", RET, SYSCALL)).sites == (Site(5, 7, 257, condition=condition),)


EMULATED_NOPS = ["90", "66 90", "0f 1f 00", "0f 1f 40 00", "66 0f 1f 44 00 00", "0f 1f 80 00 00 00 00", "0f 1f 84 00 00 00 00 00"]


@pytest.mark.parametrize("nop", EMULATED_NOPS)
def test_no_operations_that_the_kernel_emulates(nop: str) -> None:
    size = len(code(nop))
    assert found(code(XOR, nop, OPENAT, SYSCALL)).sites == (early(2, size + 5, 257, size),)


NOT_EMULATED = ["0f 1f 44 00 00", "66 0f 1f 84 00 00 00 00 00", "0f 1f 01", "f3 90", "41 90", "68 00 00 00 00", "ff 33", "66 55"]


@pytest.mark.parametrize("before", [*NOT_EMULATED, "41 ff 30", "f2 eb 00", "e3 00", "e2 00", "f3 0f 1e fa"])
def test_what_the_kernel_does_not_emulate(before: str) -> None:
    assert found(code(before, OPENAT, SYSCALL)).sites == (Site(len(code(before)), 5, 257, None),)


def test_other_ways_to_what_is_between() -> None:
    text = code(PUSH, OPENAT, XOR, SYSCALL, RET)
    assert found(text).sites == (early(0, 8, 257, 1),)
    late = (Site(6, 2, 257),)
    assert found(text + code("e8 f1 ff ff ff"), [(0, 11), (11, 16)]).sites == late, "called, from another function"
    both = (early(0, 8, 257, 1), early(11, -3, 257, -10))
    assert found(text + code("eb f4"), [(0, 11), (11, 13)]).sites == both, "jumped to, from another function"
    assert found(text, named=[1]).sites == late, "a function with a name of its own"
    assert found(text, named=[0, 8]).sites == (early(0, 8, 257, 1),)
    assert found(text, [(1, 10)]).sites == late, "a function that begins there"
    assert found(text, []).sites == late, "nobody knows where functions begin"
    parts = code(PUSH, OPENAT, XOR, SYSCALL, "74 02", RET) + code("90", "ff e0")
    assert found(parts, [(0, 13), (13, 16)]).sites == late, "jumps by a table from another part of the function"


def test_the_beginning_of_a_function_is_refused_but_jumps_to_it_are_sites() -> None:
    everything = found(code(SYSCALL, CLOSE, "eb f7"))
    assert everything.sites == (Site(7, -7, 3),)
    assert [offset for offset, _ in everything.refused] == [0]


def test_a_jump_from_another_function() -> None:
    # mov $3,%eax; xor %edi,%edi; syscall; ret | mov $257,%eax; jmp to the syscall
    text = code(CLOSE, "31 ff", SYSCALL, RET, OPENAT, "e9 f3 ff ff ff")
    assert found(text, [(0, 10), (10, 20)]).sites == (Site(5, 2, 3), Site(15, -8, 257))
    near = code(CLOSE, "31 ff", SYSCALL, RET, OPENAT, "eb f6")
    assert found(near, [(0, 10), (10, 17)]).sites == (Site(5, 2, 3), Site(15, -8, 257))


def test_a_part_of_a_function_that_is_far_away_changes_what_is_known() -> None:
    # 1: xor %edi,%edi in the middle is jumped to with another number
    text = code(CLOSE, "31 ff", SYSCALL, RET, OPENAT, "e9 f1 ff ff ff")
    assert found(text, [(0, 10), (10, 20)]).sites == (Site(5, 2, None),)


def test_bytes_that_only_look_like_a_jump_to_it_are_none() -> None:
    # mov $257,%eax; xor; syscall; ret | mov $0xf8eb,%eax, whose bytes hold a jump to the syscall
    text = code(OPENAT, "31 ff", SYSCALL, RET, "b8 eb fa 00 00", RET)
    assert found(text, [(0, 10), (10, 16)]).sites == (Site(5, 2, 257),)


def test_tables_between_functions_are_not_touched() -> None:
    table = code("31 ff", SYSCALL, "cd 80") * 8
    text = code(OPENAT, SYSCALL, RET) + table
    everything = found(text, [(0, 8)])
    assert everything.sites == (Site(0, 5, 257, None),)
    assert {why for _, why in everything.doubtful} == {
        "it belongs to no function and no number is set before it, so it may be data"
    }
    assert everything.other == ()


def test_code_without_a_description_between_functions_that_sets_a_number() -> None:
    text = code("b8 00 00 00 00", RET) + code("55", "48 89 e5", CLOSE, SYSCALL, RET)
    assert found(text, [(0, 6)]).sites == (Site(10, 5, 3, None),)


def test_a_description_that_ends_before_the_call() -> None:
    text = code("89 ff", "b8 38 00 00 00", SYSCALL, "48 85 c0", RET)
    assert found(text, [(0, 7)]) == Sites((Site(2, 5, 56, None),), (), ())


GO = code(
    "cc cc cc cc", "49 89 f2", "48 89 fa", "48 89 ce", "48 89 df", SYSCALL, "48 3d 01 f0 ff ff", "76 01", "c3", "c3", "cc cc cc cc"
)


@pytest.mark.parametrize("before", range(0, 3000, 97))
def test_a_file_without_descriptions_of_functions(before: int) -> None:
    filling = (code("48 8b 44 24 08", "48 83 c0 10", "b9 0f 05 00 00", "48 89 44 24 10", "e8 0f 05 00 00") * 200)[
        : before // 24 * 24
    ]
    everything = found(filling + GO + filling, [])
    assert everything == Sites((Site(len(filling) + 13, 3, None),), (), ())


@pytest.mark.parametrize("table", [True, False], ids=["table", "section alone"])
def test_the_return_from_a_signal_handler_is_described_from_one_byte_too_early_on(table: bool) -> None:
    text = code("66 90 0f 1f 40 00", "48 c7 c0 0f 00 00 00", SYSCALL, "0f 1f 80 00 00 00 00")
    assert found(text, [(5, 15)], signals=True, table=table).sites == (Site(6, 7, 15, None),)
    assert found(text, [(6, 15)], signals=True, table=table).sites == (Site(6, 7, 15, None),)


def test_functions_from_the_section_where_there_is_no_table() -> None:
    text = code("b8 00 00 00 00", RET, "cc cc", OPENAT, "31 ff", SYSCALL, RET)
    assert found(text, [(0, 6), (8, 18)], table=False).sites == (Site(13, 2, 257),)
    file = Elf(elf(text, [(0, 6), (8, 18)], table=False))
    base = CODE + MOVED
    assert [file.function(base + at) for at in (0, 5, 6, 8, 17, 18)] == [
        (base, base + 6),
        (base, base + 6),
        None,
        (base + 8, base + 18),
        (base + 8, base + 18),
        None,
    ]


def test_a_long_function_is_looked_at_in_part_first() -> None:
    filling = code("b9 0f 05 00 00") * 2000
    text = code(OPENAT) + filling + code("31 ff", SYSCALL, RET)
    at = 5 + len(filling)
    assert found(text) == Sites((Site(at, 2, None if len(filling) > 5 * 4096 else 257),), (), ())


def test_other_ways_into_the_kernel() -> None:
    text = code("31 c0", "cd 80", "0f 34", "cd 03", RET)
    assert found(text) == Sites((), (), ((2, "int 0x80"), (4, "sysenter")))


def test_rax_is_set() -> None:
    assert Site(0, 2, None).rax_is_set
    assert not Site(0, 5, 257, None).rax_is_set
    assert not Site(0, 3, 202, "r8").rax_is_set
    assert not Site(0, 2, None, "rax", 0).rax_is_set
    assert not early(0, 8, 257, 1).rax_is_set


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an ELF file of 64 bits"),
        (b"#!/bin/sh\n" * 100, "not an ELF file of 64 bits"),
        (b"\x7fELF\x01\x01" + bytes(100), "not an ELF file of 64 bits"),
        (elf(code(RET), machine=183), "an ELF file for machine 183, not for x86-64"),
        (elf(code(RET))[:100], "the headers of the ELF file are damaged"),
    ],
)
def test_what_is_no_elf_file_for_this_machine(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_sites(Elf(data))


@pytest.mark.parametrize("cut", range(0, 4400, 61))
def test_a_damaged_file_is_an_error_or_has_fewer_sites(cut: int) -> None:
    whole = elf(code(OPENAT, SYSCALL, RET), [(0, 8)])
    for data in (whole[:cut], whole[:cut] + b"\xff" * 8 + whole[cut + 8 :]):
        try:
            assert len(find_sites(Elf(data)).sites) <= 1
        except ValueError as error:
            assert "ELF" in str(error)


LIBRARIES = [Path("/lib/x86_64-linux-gnu/libc.so.6"), Path("/lib64/libc.so.6"), Path("/usr/lib/libc.so.6")]


@pytest.mark.skipif(not any(path.exists() for path in LIBRARIES), reason="no glibc for x86-64 here")
def test_the_c_library_of_this_machine() -> None:
    data = next(path for path in LIBRARIES if path.exists()).read_bytes()
    begun = time.process_time()
    everything = find_sites(Elf(data))
    assert time.process_time() - begun < 5
    numbers = {site.nr for site in everything.sites}
    assert len(everything.sites) > 300
    assert {0, 1, 2, 3, 15, 39, 56, 59, 202, 231, 257} - numbers - {2} == set()
    assert len([site for site in everything.sites if site.nr is None]) < 30  # syscall(), and few more
    assert [site for site in everything.sites if site.nr is not None and not 0 <= site.nr < 600] == []
    assert len(everything.refused) < 10
    assert len([site for site in everything.sites if site.to_next is not None]) > 100
    assert len(set(everything.sites)) == len(everything.sites)
    for site in everything.sites:
        assert data[site.offset + site.to_syscall :][:2] == b"\x0f\x05"
        if site.to_next is None and site.held_in is None and data[site.offset] == 0xB8:
            assert site.to_syscall == 5
            assert int.from_bytes(data[site.offset + 1 : site.offset + 5], "little") == site.nr


AFTERWARDS = ["41 89 c0", OPENAT, SYSCALL, RET]  # mov %eax,%r8d


def cancellable(count: int, *, detour: list[str] | None = None, first: str = "74 08", between: int = 0) -> Sites:
    """A C library's functions that make a call at one of two places; before the second one they call another function."""
    text, functions = b"", []
    size = 64 + between
    helper = count * size
    for index in range(count):
        begin = index * size
        function = code(first, OPENAT, SYSCALL, RET) + b"\xcc" * between
        function += b"\xe8" + struct.pack("<i", helper - (begin + len(function) + 5)) + code(*(detour or AFTERWARDS))
        text += function.ljust(size, b"\xcc")
        functions.append((begin, begin + len(function)))
    return found(text + code(RET), [*functions, (helper, helper + 1)])


def test_two_places_for_the_same_call_share_the_jump_between_them() -> None:
    assert cancellable(8) == Sites(
        tuple(Site(index * 64, 7, 257, None, to_next=2, condition=5, detour=10) for index in range(8)), (), ()
    )


def test_where_the_detour_is_right_behind_the_jump() -> None:
    text, functions = b"", []
    for index in range(8):
        call = b"\xe8" + struct.pack("<i", 8 * 64 - (index * 64 + 7))
        function = code("75 10") + call + code(*AFTERWARDS, OPENAT, SYSCALL, RET)
        text += function.ljust(64, b"\xcc")
        functions.append((index * 64, index * 64 + len(function)))
    sites = found(text + code(RET), [*functions, (8 * 64, 8 * 64 + 1)]).sites
    assert sites == tuple(Site(index * 64, 23, 257, None, to_next=18, condition=5, detour=2) for index in range(8))


@pytest.mark.parametrize(
    "sites",
    [
        cancellable(7),
        cancellable(8, detour=[CLOSE, SYSCALL, RET]),
        cancellable(8, detour=["41 89 c0", "75 00", OPENAT, SYSCALL, RET]),
        cancellable(8, detour=["90 " * 250, OPENAT, SYSCALL, RET]),
        cancellable(8, first="e3 08"),
        cancellable(8, first="0f 84 08 80 00 00", between=0x8000),
    ],
    ids=["few", "another call", "a branch", "far", "no condition", "more than a cookie can tell"],
)
def test_what_is_no_detour(sites: Sites) -> None:
    assert [site for site in sites.sites if site.detour is not None] == []
    assert sites.refused == ()
