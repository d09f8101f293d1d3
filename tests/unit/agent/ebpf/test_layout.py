"""How keys and values of the kernel's maps are read and written."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from chaosorca.agent.ebpf.layout import Layout, PerCpuLayout


@pytest.mark.parametrize(
    ("format_", "value", "data"),
    [
        ("=I", 7, b"\7\0\0\0"),
        ("=B", 255, b"\xff"),
        ("=q", -1, b"\xff" * 8),
        ("=II", (1, 2), b"\1\0\0\0\2\0\0\0"),
        ("=IHBB", (1, 403, 1, 2), b"\1\0\0\0\x93\1\1\2"),
        ("=Q3Q", (1, 2, 3, 4), struct.pack("=4Q", 1, 2, 3, 4)),
        ("=B3xI", (1, 2), b"\1\0\0\0\2\0\0\0"),
        ("=B7x", 1, b"\1" + bytes(7)),
        ("=4s", b"abcd", b"abcd"),
    ],
)
def test_one_field_is_a_number_and_several_are_a_tuple(format_: str, value: Any, data: bytes) -> None:
    layout = Layout(format_)
    assert (layout.size, layout.pack(value), layout.unpack(data)) == (len(data), data, value)


@pytest.mark.parametrize(("format_", "values"), [("=I", [1, 2, 3]), ("=IB", [(1, 2), (3, 4)]), ("=Q", [])])
def test_values_follow_one_another(format_: str, values: list[Any]) -> None:
    layout = Layout(format_)
    assert list(layout.unpack_all(b"".join(map(layout.pack, values)))) == values


@pytest.mark.parametrize(
    ("format_", "value", "data"),
    [
        ("=Q", [1, 2, 3], struct.pack("=3Q", 1, 2, 3)),
        ("=I", [1, 2, 3], struct.pack("=I4xI4xI4x", 1, 2, 3)),
        ("=QI", [(1, 2), (3, 4), (5, 6)], struct.pack("=QI4xQI4xQI4x", 1, 2, 3, 4, 5, 6)),
    ],
)
def test_each_processor_has_a_value_aligned_to_8_bytes(format_: str, value: list[Any], data: bytes) -> None:
    layout = PerCpuLayout(format_, 3)
    assert (layout.size, layout.pack(value), layout.unpack(data)) == (len(data), data, value)
    assert list(layout.unpack_all(data + data)) == [value, value]


def test_a_truncated_value_is_an_error() -> None:
    with pytest.raises(struct.error):
        Layout("=I").unpack_all(b"123")
