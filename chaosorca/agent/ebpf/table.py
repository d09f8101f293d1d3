"""Maps of eBPF programs, read and written through libbpf."""

from __future__ import annotations

import ctypes
import errno
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chaosorca.agent.ebpf import library
from chaosorca.agent.ebpf.layout import Layout
from chaosorca.model.errors import AgentError

_BATCH = 1024
_BATCH_BYTES = 1 << 20
_NO_BATCHES = (errno.EINVAL, errno.EOPNOTSUPP, 524)  # 524 is the kernel's internal ENOTSUPP


class Table:
    """A map. Keys and values are numbers or tuples of numbers. A per-CPU map has a list with one value per processor."""

    def __init__(self, fd: int, key: Layout, value: Layout, capacity: int, is_array: bool = False, name: str = "") -> None:
        self.is_array = is_array
        self._name = name
        self._fd = fd
        self._capacity = capacity
        self._key = key
        self._value = value

    def id(self) -> int | None:
        """Return the map's id. Other processes can open the map by its id (bpf(2), BPF_MAP_GET_FD_BY_ID)."""
        text = Path(f"/proc/self/fdinfo/{self._fd}").read_text()
        return next((int(line.split(":")[1]) for line in text.splitlines() if line.startswith("map_id:")), None)

    def get(self, key: Any) -> Any:
        """Return the value of a key; None if the map does not have the key."""
        value = ctypes.create_string_buffer(self._value.size)
        found = library.exists(library.libbpf().bpf_map_lookup_elem(self._fd, self._key.pack(key), value))
        return self._value.unpack(value.raw) if found else None

    def put(self, key: Any, value: Any) -> None:
        """Set the value of a key.

        Raises:
            AgentError: the map is full.
            OSError: the kernel refuses the entry for another reason.
        """
        result = library.libbpf().bpf_map_update_elem(self._fd, self._key.pack(key), self._value.pack(value), 0)
        if result == -errno.E2BIG:
            raise AgentError(
                f"the kernel's map {self._name!r} is full with {self._capacity} entries: "
                "stop the monitoring of another container, or another fault, first"
            )
        library.check(result)

    def delete(self, key: Any) -> bool:
        """Delete a key, and return whether the map had it."""
        return library.exists(library.libbpf().bpf_map_delete_elem(self._fd, self._key.pack(key)))

    def entries(self, limit: int | None = None) -> list[tuple[Any, Any]]:
        """Return all keys with their values, or only the first `limit` of them. Entries that change meanwhile may be missing."""
        try:
            return list(itertools.islice(self._entries_in_batches(), limit))
        except OSError as error:
            if error.errno not in _NO_BATCHES:
                raise
            return list(itertools.islice(self._entries_one_by_one(), limit))

    def delete_those(self, chosen: Callable[[Any], bool]) -> None:
        """Delete all keys for which a function returns true. The values are not read."""
        for key in self._keys():
            if chosen(key):
                self.delete(key)

    def __len__(self) -> int:
        try:
            return sum(count for count, _, _ in self._batches())
        except OSError as error:
            if error.errno not in _NO_BATCHES:
                raise
            return len(self._keys())

    def _entries_in_batches(self) -> Iterator[tuple[Any, Any]]:
        for count, keys, values in self._batches():
            yield from zip(
                self._key.unpack_all(ctypes.string_at(keys, count * self._key.size)),
                self._value.unpack_all(ctypes.string_at(values, count * self._value.size)),
                strict=True,
            )

    def _batches(self) -> Iterator[tuple[int, Any, Any]]:
        """Yield the number of entries of each batch, and the buffers of keys and values. The next batch overwrites the buffers."""
        size, begun, ended = max(64, min(_BATCH, _BATCH_BYTES // self._value.size)), False, False
        place = ctypes.create_string_buffer(max(8, self._key.size))
        keys, values = self._buffers(size)
        while not ended:
            count = ctypes.c_uint32(size)
            result = library.libbpf().bpf_map_lookup_batch(
                self._fd, place if begun else None, place, keys, values, ctypes.byref(count), None
            )
            if result == -errno.ENOSPC:  # the buffers are too small for the entries of one hash bucket
                size *= 2
                keys, values = self._buffers(size)
                continue
            ended = not library.exists(result)
            begun = True
            yield count.value, keys, values

    def _buffers(self, size: int) -> tuple[Any, Any]:
        return ctypes.create_string_buffer(size * self._key.size), ctypes.create_string_buffer(size * self._value.size)

    def _entries_one_by_one(self) -> Iterator[tuple[Any, Any]]:
        entries = ((key, self.get(key)) for key in self._keys())
        return ((key, value) for key, value in entries if value is not None)

    def _keys(self) -> list[Any]:
        """Return all keys.

        If the last returned key is deleted meanwhile, the kernel starts again from the first key. The number of rounds is therefore
        limited to two.
        """
        keys: dict[bytes, None] = {}
        last = None
        following = ctypes.create_string_buffer(self._key.size)
        for _ in range(2 * self._capacity):
            if not library.exists(library.libbpf().bpf_map_get_next_key(self._fd, last, following)):
                break
            last = following.raw
            keys[last] = None
        return [self._key.unpack(key) for key in keys]
