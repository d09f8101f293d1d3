"""Where code makes its system calls: hand-assembled instructions, and the C library of this machine."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("capstone")

from chaosorca.agent.code.elf import Elf
from chaosorca.agent.code.sites import Site, Sites, find_sites
from tests.support.assembly import CLOSE, OPENAT, RET, SYSCALL, code, early, found


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
        pytest.param(code("b0 02", SYSCALL), [Site(0, 2, 2, None)], id="set in part: the tracer reads the whole"),
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
        (code(CLOSE, "f0 ff 03", SYSCALL, RET), 8, "the kernel refuses uprobes with that prefix"),
        (code(CLOSE, "f3 a4", SYSCALL, RET), 7, "has a repeat prefix"),
        (code(CLOSE, "0f 1f 44 00 00", SYSCALL, RET), 10, "is a no-operation of 5 bytes"),
        (code("c3 0f 1f 00", SYSCALL, RET), 4, "no instruction before it is known"),
    ],
)
def test_a_call_without_a_site_has_a_reason(text: bytes, where: int, reason: str) -> None:
    refused = found(text).refused
    assert [offset for offset, _ in refused] == [where]
    assert reason in refused[0][1]


def test_a_function_that_begins_with_a_call_has_sites_at_jumps() -> None:
    everything = found(code(SYSCALL, CLOSE, "eb f7"))
    assert everything.sites == (Site(7, -7, 3),)
    assert [offset for offset, _ in everything.refused] == [0]


def test_a_jump_from_another_function() -> None:
    # mov $3,%eax; xor %edi,%edi; syscall; ret | mov $257,%eax; jmp to the syscall
    text = code(CLOSE, "31 ff", SYSCALL, RET, OPENAT, "e9 f3 ff ff ff")
    assert found(text, [(0, 10), (10, 20)]).sites == (Site(5, 2, 3), Site(15, -8, 257))
    near = code(CLOSE, "31 ff", SYSCALL, RET, OPENAT, "eb f6")
    assert found(near, [(0, 10), (10, 17)]).sites == (Site(5, 2, 3), Site(15, -8, 257))


def test_a_jump_from_a_part_far_away_may_set_another_number() -> None:
    # the last instruction jumps to the `xor %edi,%edi` with another number
    text = code(CLOSE, "31 ff", SYSCALL, RET, OPENAT, "e9 f1 ff ff ff")
    assert found(text, [(0, 10), (10, 20)]).sites == (Site(5, 2, None),)


def test_bytes_that_only_look_like_a_jump_are_ignored() -> None:
    # mov $257,%eax; xor; syscall; ret | mov $0xf8eb,%eax, whose bytes hold a jump to the syscall
    text = code(OPENAT, "31 ff", SYSCALL, RET, "b8 eb fa 00 00", RET)
    assert found(text, [(0, 10), (10, 16)]).sites == (Site(5, 2, 257),)


def test_tables_between_functions_have_no_sites() -> None:
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


def test_a_long_function_is_disassembled_in_part_first() -> None:
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
