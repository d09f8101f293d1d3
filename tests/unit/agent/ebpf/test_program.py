"""Maps by way of libbpf, with a library that keeps them in this process; the kernel's are tested on real containers."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

import pytest

from chaosorca.agent.ebpf import program as libbpf
from chaosorca.agent.ebpf.layout import Layout, PerCpuLayout
from chaosorca.agent.ebpf.program import Program, Table
from chaosorca.model.errors import AgentError


class Library:
    """As much of libbpf as a map needs. Entries that lie together (`bucket`) can only be read together."""

    def __init__(self, bucket: int = 1, batches: int = 0) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.bucket = bucket
        self.batches = batches
        self.asked: list[int] = []

    def bpf_map_update_elem(self, fd: int, key: bytes, value: bytes, flags: int) -> int:
        self.entries[key] = value
        return 0

    def bpf_map_lookup_elem(self, fd: int, key: bytes, value: Any) -> int:
        if key not in self.entries:
            return -errno.ENOENT
        ctypes.memmove(value, self.entries[key], len(self.entries[key]))
        return 0

    def bpf_map_delete_elem(self, fd: int, key: bytes) -> int:
        return 0 if self.entries.pop(key, None) is not None else -errno.ENOENT

    def bpf_map_get_next_key(self, fd: int, before: bytes | None, following: Any) -> int:
        keys = list(self.entries)
        at = keys.index(before) + 1 if before in self.entries else 0
        if at == len(keys):
            return -errno.ENOENT
        following.raw = keys[at]
        return 0

    def bpf_map_lookup_batch(self, fd: int, begin: Any, end: Any, keys: Any, values: Any, count: Any, _: Any) -> int:
        if self.batches:
            return -self.batches
        room = count._obj.value
        self.asked.append(room)
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


def table(monkeypatch: pytest.MonkeyPatch, library: Library, key: str = "=I", value: str = "=Q") -> Table:
    monkeypatch.setattr(libbpf, "_library", lambda: library)
    return Table(3, Layout(key), Layout(value), 4 * libbpf._BATCH)


def test_what_is_put_is_there_until_it_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = table(monkeypatch, Library(), "=II", "=QB")
    calls.put((1, 2), (3, 4))
    assert (calls.get((1, 2)), calls.get((2, 1)), len(calls)) == ((3, 4), None, 1)
    assert (calls.delete((1, 2)), calls.delete((1, 2))) == (True, False)
    assert (calls.get((1, 2)), calls.entries()) == (None, [])


@pytest.mark.parametrize(
    ("refused", "kind", "says"),
    [
        (errno.E2BIG, AgentError, "the kernel's map 'monitored_cgroups' is full with 16 entries: stop the monitoring of another"),
        (errno.ENOMEM, OSError, "Cannot allocate memory"),
    ],
)
def test_a_map_that_takes_no_more_is_named(monkeypatch: pytest.MonkeyPatch, refused: int, kind: type[Exception], says: str) -> None:
    library = Library()
    monkeypatch.setattr(library, "bpf_map_update_elem", lambda *_: -refused)
    monkeypatch.setattr(libbpf, "_library", lambda: library)
    with pytest.raises(kind, match=says):
        Table(3, Layout("=Q"), Layout("=II"), 16, name="monitored_cgroups").put(7, (1, 0))


@pytest.mark.parametrize("count", [0, 1, libbpf._BATCH - 1, libbpf._BATCH, libbpf._BATCH + 1, 3 * libbpf._BATCH])
@pytest.mark.parametrize("batches", [0, errno.EINVAL, errno.EOPNOTSUPP, 524])
def test_all_entries_are_read_with_and_without_batches(monkeypatch: pytest.MonkeyPatch, count: int, batches: int) -> None:
    counts = table(monkeypatch, Library(batches=batches))
    for number in range(count):
        counts.put(number, number * number)
    assert counts.entries() == [(number, number * number) for number in range(count)]


def test_a_batch_that_is_too_small_is_made_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(bucket=3 * libbpf._BATCH)
    counts = table(monkeypatch, library)
    for number in range(4 * libbpf._BATCH):
        counts.put(number, 1)
    assert len(counts.entries()) == 4 * libbpf._BATCH
    assert library.asked == [libbpf._BATCH, 2 * libbpf._BATCH, 4 * libbpf._BATCH, 4 * libbpf._BATCH]


@pytest.mark.parametrize("refused", [errno.EPERM, errno.ENOMEM])
def test_another_error_is_told(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    with pytest.raises(OSError) as told:
        table(monkeypatch, Library(batches=refused)).entries()
    assert (told.value.errno, told.value.strerror) == (refused, os.strerror(refused))


def test_those_that_are_chosen_are_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = table(monkeypatch, Library(), "=II")
    for target in (1, 2):
        for number in (5, 6):
            counts.put((target, number), 1)
    counts.delete_those(lambda key: key[0] == 1)
    assert [key for key, _ in counts.entries()] == [(2, 5), (2, 6)]


def test_values_stay_in_the_kernel_where_keys_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    counts = table(monkeypatch, library)
    for number in range(10):
        counts.put(number, 1)
    monkeypatch.setattr(library, "bpf_map_lookup_batch", None)
    monkeypatch.setattr(library, "bpf_map_lookup_elem", None)
    counts.delete_those(lambda key: key % 2 == 0)
    assert [int.from_bytes(key, "little") for key in library.entries] == [1, 3, 5, 7, 9]


def test_keys_that_come_and_go_meanwhile_are_no_endless_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy(Library):
        def bpf_map_get_next_key(self, fd: int, before: bytes | None, following: Any) -> int:
            del self.entries[next(iter(self.entries))]  # which is the one that was told last
            self.put_new()
            return super().bpf_map_get_next_key(fd, before, following)

        def put_new(self) -> None:
            self.asked.append(0)
            self.entries[len(self.asked).to_bytes(4, "little")] = bytes(8)

    library = Busy()
    library.put_new()
    monkeypatch.setattr(libbpf, "_library", lambda: library)
    kept: list[int] = []
    Table(3, Layout("=I"), Layout("=Q"), 50).delete_those(lambda key: bool(kept.append(key)))
    assert (len(kept), len(library.entries)) == (100, 1)


def test_a_value_for_each_processor_is_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(libbpf, "_library", lambda: library)
    counts = Table(3, Layout("=I"), PerCpuLayout("=I", 4), 16)
    counts.put(7, [1, 2, 3, 4])
    assert (counts.get(7), counts.entries()) == ([1, 2, 3, 4], [(7, [1, 2, 3, 4])])


def test_without_the_library_it_is_told_who_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "_LIBRARY", "libnowhere.so.1")
    libbpf._library.cache_clear()
    with pytest.raises(AgentError, match=r"libnowhere\.so\.1 is not to be had \(.*\): the agent's image has it"):
        Program("arm", {})
