"""Offsets of members, from BTF that the tests build."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from chaosorca.agent.linux.btf import io_accounting_offsets, member_offsets

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF = 1, 2, 3, 4, 5, 6, 7, 8
VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(9, 20)


class Btf:
    """Builds BTF in the layout of the kernel's Documentation/bpf/btf.rst."""

    def __init__(self) -> None:
        self.types = b""
        self.strings = b"\0"

    def name(self, text: str) -> int:
        if not text:
            return 0
        at = len(self.strings)
        self.strings += text.encode() + b"\0"
        return at

    def add(self, kind: int, name: str = "", members: int = 0, extra: tuple[int, ...] = (), flag: bool = False) -> Btf:
        info = kind << 24 | members | flag << 31
        self.types += struct.pack(f"=III{len(extra)}I", self.name(name), info, 8, *extra)
        return self

    def struct(self, name: str, members: dict[str, int], flag: bool = False, kind: int = STRUCT) -> Btf:
        extra = [word for member, bits in members.items() for word in (self.name(member), 1, bits)]
        return self.add(kind, name, len(members), tuple(extra), flag)

    def bytes(self, magic: int = 0xEB9F, header: int = 24) -> bytes:
        sizes = (0, len(self.types), len(self.types), len(self.strings))
        return struct.pack("=HBBI4I", magic, 1, 0, header, *sizes) + bytes(header - 24) + self.types + self.strings


def every_kind() -> Btf:
    """Return one record of each kind other than a structure, each with its trailing bytes."""
    return (
        Btf()
        .add(INT, "int", extra=(32,))
        .add(PTR)
        .add(ARRAY, extra=(1, 1, 10))
        .struct("some_union", {"a": 0, "ioac": 64}, kind=UNION)
        .add(ENUM, "color", 2, (0, 0, 0, 1))
        .add(FWD, "later")
        .add(TYPEDEF, "u64")
        .add(VOLATILE)
        .add(CONST)
        .add(RESTRICT)
        .add(FUNC_PROTO, members=3, extra=(0, 1, 0, 1, 0, 1))
        .add(FUNC, "do_it")
        .add(VAR, "jiffies", extra=(1,))
        .add(DATASEC, ".data", 2, (1, 0, 4, 1, 4, 4))
        .add(FLOAT, "double")
        .add(DECL_TAG, "tag", extra=(0,))
        .add(TYPE_TAG, "user")
        .add(ENUM64, "big", 2, (0, 0, 0, 0, 1, 0))
    )


def test_a_structure_is_found_after_records_of_every_kind() -> None:
    btf = every_kind().struct("task_struct", {"state": 0, "pid": 64, "ioac": 19_456})
    assert member_offsets(btf.bytes(), {"task_struct": {"ioac", "pid"}}) == {"task_struct": {"ioac": 2_432, "pid": 8}}


@pytest.mark.parametrize("kind", range(1, 20))
def test_each_kind_of_record_has_its_length(kind: int) -> None:
    extra = {INT: 1, ARRAY: 3, VAR: 1, DECL_TAG: 1}.get(kind, 0)
    each = {STRUCT: 3, UNION: 3, ENUM: 2, FUNC_PROTO: 2, DATASEC: 3, ENUM64: 3}.get(kind, 0)
    btf = Btf().add(kind, "", 2 if each else 0, (0,) * (extra + 2 * each)).struct("wanted", {"m": 16})
    assert member_offsets(btf.bytes(), {"wanted": {"m"}}) == {"wanted": {"m": 2}}


def test_a_longer_header_is_skipped() -> None:
    assert member_offsets(Btf().struct("s", {"m": 8}).bytes(header=32), {"s": {"m"}}) == {"s": {"m": 1}}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, {}),
        ({"absent": {"m"}}, {}),
        ({"s": {"absent"}}, {"s": {}}),
        ({"s": set()}, {"s": {}}),
        ({"s": {"first", "absent"}}, {"s": {"first": 0}}),
        ({"s": {"first", "last"}, "t": {"first"}}, {"s": {"first": 0, "last": 12}, "t": {"first": 4}}),
        ({"some_union": {"ioac"}}, {}),
    ],
)
def test_only_wanted_members_are_found(wanted: dict[str, set[str]], found: dict[str, dict[str, int]]) -> None:
    btf = every_kind().struct("s", {"first": 0, "last": 96}).struct("t", {"first": 32})
    assert member_offsets(btf.bytes(), wanted) == found


def test_bit_fields_have_no_offset() -> None:
    # With the flag, the upper 8 bits of a member's word are its width in bits, 0 for a member that is not a bit field.
    members = {"plain": 0 << 24 | 64, "at_a_byte": 3 << 24 | 72, "within": 2 << 24 | 75, "after": 0 << 24 | 128}
    btf = Btf().struct("s", members, flag=True)
    assert member_offsets(btf.bytes(), {"s": set(members)}) == {"s": {"plain": 8, "after": 16}}


def test_without_the_flag_a_large_offset_is_not_a_bit_field() -> None:
    assert member_offsets(Btf().struct("s", {"m": 1 << 27}).bytes(), {"s": {"m"}}) == {"s": {"m": 1 << 24}}


@pytest.mark.parametrize(
    "content", [b"", b"\x9f", Btf().bytes()[:23], Btf().bytes(magic=0x9FEB), Btf().bytes(magic=0), b"\x7fELF" + bytes(60)]
)
def test_other_content_than_btf_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match="BTF"):
        member_offsets(content, {"s": {"m"}})


TASK = {"ioac": 1_600}
ACCOUNTING = {"rchar": 0, "wchar": 64, "syscr": 128, "syscw": 192, "read_bytes": 256, "write_bytes": 320}


@pytest.mark.parametrize(
    ("content", "offsets"),
    [
        (
            Btf().struct("task_struct", TASK).struct("task_io_accounting", ACCOUNTING).bytes(),
            {"IOAC_READ": 232, "IOAC_WRITTEN": 240, "IOAC_READS": 216, "IOAC_WRITES": 224},
        ),
        (Btf().struct("task_struct", TASK).bytes(), {}),
        (Btf().struct("task_io_accounting", ACCOUNTING).bytes(), {}),
        (Btf().struct("task_struct", {"x": 0}).struct("task_io_accounting", ACCOUNTING).bytes(), {}),
        (Btf().struct("task_struct", TASK).struct("task_io_accounting", {"rchar": 0}).bytes(), {}),
        (b"nonsense", {}),
        (None, {}),
    ],
    ids=["both", "no accounting", "no task", "no ioac", "no bytes", "no btf", "no file"],
)
def test_io_accounting_offsets_are_empty_without_type_information(
    tmp_path: Path, content: bytes | None, offsets: dict[str, int]
) -> None:
    if content is not None:
        (tmp_path / "vmlinux").write_bytes(content)
    assert io_accounting_offsets(tmp_path / "vmlinux") == offsets
