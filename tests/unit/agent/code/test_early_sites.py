"""Sites further ahead of a system call, on instructions that the kernel emulates."""

from __future__ import annotations

import pytest

pytest.importorskip("capstone")

from chaosorca.agent.code.sites import Site, Sites
from tests.support.assembly import CLOSE, OPENAT, RET, SYSCALL, code, early, found

PUSH = "55"
XOR = "31 ff"
LEA = "48 8d bf 00 00 00 00"
CALL = "e8 00 00 00 00"


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
        pytest.param(code(CALL, "90", OPENAT, SYSCALL), [Site(6, 5, 257, None)], id="padding after a call that may not return"),
        pytest.param(code(PUSH, OPENAT, LEA * 8, "48 89 ff", SYSCALL), [early(0, 65, 257, 1)], id="64 bytes"),
        pytest.param(code(PUSH, OPENAT, LEA * 8, "48 8d 7f 00", SYSCALL), [Site(62, 4, 257)], id="65 bytes"),
        pytest.param(code(PUSH, OPENAT, XOR * 15, SYSCALL), [early(0, 36, 257, 1)], id="16 instructions"),
        pytest.param(code(PUSH, OPENAT, XOR * 16, SYSCALL), [Site(36, 2, 257)], id="17 instructions"),
        pytest.param(code("e9 f7 7f 00 00", "cc" * 0x7FF7, OPENAT, SYSCALL), [Site(0x7FFC, 5, 257, None)], id="far away"),
        pytest.param(code("e9 f5 7f 00 00", "cc" * 0x7FF5, OPENAT, SYSCALL), [early(0, 0x7FFF, 257, 0x7FFA)], id="not as far"),
        pytest.param(code(PUSH, "89 f8", XOR, SYSCALL), [Site(3, 2, None)], id="an unknown number"),
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
def test_sites_on_instructions_that_the_kernel_emulates(text: bytes, sites: list[Site]) -> None:
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
def test_instructions_that_the_kernel_does_not_emulate(before: str) -> None:
    assert found(code(before, OPENAT, SYSCALL)).sites == (Site(len(code(before)), 5, 257, None),)


def test_other_paths_to_instructions_between_site_and_call() -> None:
    text = code(PUSH, OPENAT, XOR, SYSCALL, RET)
    assert found(text).sites == (early(0, 8, 257, 1),)
    late = (Site(6, 2, 257),)
    assert found(text + code("e8 f1 ff ff ff"), [(0, 11), (11, 16)]).sites == late, "called, from another function"
    both = (early(0, 8, 257, 1), early(11, -3, 257, -10))
    assert found(text + code("eb f4"), [(0, 11), (11, 13)]).sites == both, "jumped to, from another function"
    assert found(text, named=[1]).sites == late, "a function with a name of its own"
    assert found(text, named=[0, 8]).sites == (early(0, 8, 257, 1),)
    assert found(text, [(1, 10)]).sites == late, "a function that begins there"
    assert found(text, []).sites == late, "no function is known"
    parts = code(PUSH, OPENAT, XOR, SYSCALL, "74 02", RET) + code("90", "ff e0")
    assert found(parts, [(0, 13), (13, 16)]).sites == late, "jumps by a table from another part of the function"
