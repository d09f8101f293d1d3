"""A fake libbpf that keeps the entries of one map in this process."""

from __future__ import annotations

import ctypes
import errno
from typing import Any


class FakeLibrary:
    """The functions of libbpf that access a map. A batch holds a whole number of buckets, as in the kernel's hash maps."""

    def __init__(self, bucket: int = 1, batch_error: int = 0, update_error: int = 0) -> None:
        """
        Arguments:
            bucket: how many entries each bucket has.
            batch_error: the error of each read of a batch; 0 for none.
            update_error: the error of each update; 0 for none.
        """
        self.entries: dict[bytes, bytes] = {}
        self.bucket = bucket
        self.batch_error = batch_error
        self.update_error = update_error
        self.batch_sizes: list[int] = []

    def bpf_map_update_elem(self, fd: int, key: bytes, value: bytes, flags: int) -> int:
        """Set the value of a key."""
        if not self.update_error:
            self.entries[key] = value
        return -self.update_error

    def bpf_map_lookup_elem(self, fd: int, key: bytes, value: Any) -> int:
        """Read the value of a key."""
        if key not in self.entries:
            return -errno.ENOENT
        ctypes.memmove(value, self.entries[key], len(self.entries[key]))
        return 0

    def bpf_map_delete_elem(self, fd: int, key: bytes) -> int:
        """Delete a key."""
        return 0 if self.entries.pop(key, None) is not None else -errno.ENOENT

    def bpf_map_get_next_key(self, fd: int, before: bytes | None, following: Any) -> int:
        """Return the key after a given key. If the given key does not exist, return the first key."""
        keys = list(self.entries)
        at = keys.index(before) + 1 if before in self.entries else 0
        if at == len(keys):
            return -errno.ENOENT
        following.raw = keys[at]
        return 0

    def bpf_map_lookup_batch(self, fd: int, begin: Any, end: Any, keys: Any, values: Any, count: Any, _: Any) -> int:
        """Read the next batch of entries."""
        if self.batch_error:
            return -self.batch_error
        room = count._obj.value
        self.batch_sizes.append(room)
        first = 0 if begin is None else int.from_bytes(begin.raw[:4], "little")
        last = min(first + room // self.bucket * self.bucket, len(self.entries))
        if last == first < len(self.entries):
            return -errno.ENOSPC
        some = list(self.entries.items())[first:last]
        ctypes.memmove(keys, joined := b"".join(key for key, _ in some), len(joined))
        ctypes.memmove(values, joined := b"".join(value for _, value in some), len(joined))
        ctypes.memmove(end, last.to_bytes(4, "little"), 4)
        count._obj.value = len(some)
        return -errno.ENOENT if last == len(self.entries) else 0
