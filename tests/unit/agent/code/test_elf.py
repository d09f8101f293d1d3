"""Bounds of functions in ELF files, and files that are damaged."""

from __future__ import annotations

import pytest

pytest.importorskip("capstone")

from chaosorca.agent.code.elf import Elf
from chaosorca.agent.code.sites import Site, find_sites
from tests.support.assembly import CODE, MOVED, OPENAT, RET, SYSCALL, code, elf, found


@pytest.mark.parametrize("table", [True, False], ids=["table", "section alone"])
def test_the_signal_return_is_described_one_byte_too_early(table: bool) -> None:
    text = code("66 90 0f 1f 40 00", "48 c7 c0 0f 00 00 00", SYSCALL, "0f 1f 80 00 00 00 00")
    assert found(text, [(5, 15)], signals=True, table=table).sites == (Site(6, 7, 15, None),)
    assert found(text, [(6, 15)], signals=True, table=table).sites == (Site(6, 7, 15, None),)


def test_functions_from_the_section_without_a_table() -> None:
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
def test_a_file_that_is_no_elf_file_for_x86_64(data: bytes, message: str) -> None:
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
