"""How the kernel's maps store their keys and values, in the formats of `struct`."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any


class Layout:
    """Converts between bytes and values. A value of one field is a number or bytes. A value of several fields is a tuple."""

    def __init__(self, format_: str) -> None:
        """
        Arguments:
            format_: a format of `struct` with an explicit byte order, so that it adds no padding. Write C's padding as `x`.
        """
        self._struct = struct.Struct(format_)
        self._is_number = len(self._struct.unpack(bytes(self._struct.size))) == 1
        self.size = self._struct.size

    def pack(self, value: Any) -> bytes:
        """Return the bytes of a value."""
        return self._struct.pack(value) if self._is_number else self._struct.pack(*value)

    def unpack(self, data: bytes) -> Any:
        """Return the value that some bytes represent."""
        return next(self.unpack_all(data))

    def unpack_all(self, data: bytes) -> Iterator[Any]:
        """Return all values of an array of bytes."""
        each = self._struct.iter_unpack(data)
        return (value for (value,) in each) if self._is_number else each


class PerCpuLayout(Layout):
    """The layout of a list with one value for each possible processor. Each value begins at a multiple of 8 bytes."""

    def __init__(self, format_: str, processors: int) -> None:
        super().__init__(format_)
        self._padding = -self.size % 8
        self._padded = Layout(f"{format_}{self._padding}x")
        self.size = (self.size + self._padding) * processors

    def pack(self, value: Any) -> bytes:
        """Return the bytes of a list."""
        return b"".join(map(self._padded.pack, value))

    def unpack_all(self, data: bytes) -> Iterator[Any]:
        """See `Layout.unpack_all`."""
        each = self._padded.unpack_all(data)
        return map(list, zip(*[each] * (self.size // self._padded.size), strict=True))
