"""How the kernel's maps keep their keys and values: as a `struct` format says."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any


class Layout:
    """One number is told as a number, several as a tuple."""

    def __init__(self, format_: str) -> None:
        """
        Arguments:
            format_: as of `struct`, with the byte order in front, so that no padding is added: C's is to be written as `x`.
        """
        self._struct = struct.Struct(format_)
        self._is_number = len(self._struct.unpack(bytes(self._struct.size))) == 1
        self.size = self._struct.size

    def pack(self, value: Any) -> bytes:
        """The bytes of a value."""
        return self._struct.pack(value) if self._is_number else self._struct.pack(*value)

    def unpack(self, data: bytes) -> Any:
        """The value of its bytes."""
        return next(self.unpack_all(data))

    def unpack_all(self, data: bytes) -> Iterator[Any]:
        """The values that lie one behind the other."""
        each = self._struct.iter_unpack(data)
        return (value for (value,) in each) if self._is_number else each


class PerCpuLayout(Layout):
    """One value for each possible processor, told as a list. Each begins at a multiple of 8 bytes."""

    def __init__(self, format_: str, processors: int) -> None:
        super().__init__(format_)
        self._padding = -self.size % 8
        self._padded = Layout(f"{format_}{self._padding}x")
        self.size = (self.size + self._padding) * processors

    def pack(self, value: Any) -> bytes:
        """The bytes of a list."""
        return b"".join(map(self._padded.pack, value))

    def unpack_all(self, data: bytes) -> Iterator[Any]:
        """See `Layout.unpack_all`."""
        each = self._padded.unpack_all(data)
        return map(list, zip(*[each] * (self.size // self._padded.size), strict=True))
