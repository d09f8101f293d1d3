"""Two paths to the same system call that share one site."""

from __future__ import annotations

import struct

import pytest

pytest.importorskip("capstone")

from chaosorca.agent.code.sites import Site, Sites
from tests.support.assembly import CLOSE, OPENAT, RET, SYSCALL, code, found

AFTERWARDS = ["41 89 c0", OPENAT, SYSCALL, RET]  # mov %eax,%r8d


def cancellable(count: int, *, detour: list[str] | None = None, first: str = "74 08", between: int = 0) -> Sites:
    """The sites of a C library whose functions make a call on one of two paths; the second path calls another function first."""
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


def test_two_paths_to_the_same_call_share_their_branch() -> None:
    assert cancellable(8) == Sites(
        tuple(Site(index * 64, 7, 257, None, to_next=2, condition=5, detour=10) for index in range(8)), (), ()
    )


def test_a_detour_just_after_the_branch() -> None:
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
    ids=["few", "another call", "a branch", "far", "no condition", "farther than a cookie can hold"],
)
def test_paths_that_are_no_detours(sites: Sites) -> None:
    assert [site for site in sites.sites if site.detour is not None] == []
    assert sites.refused == ()
