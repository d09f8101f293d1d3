"""Maps, through a library that keeps them in this process. The kernel's own maps are tested on real containers."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from chaosorca.agent.ebpf import library, table
from chaosorca.agent.ebpf.layout import Layout, PerCpuLayout
from chaosorca.agent.ebpf.table import Table
from chaosorca.model.errors import AgentError
from tests.support.libbpf import FakeLibrary

Use = Callable[[FakeLibrary], FakeLibrary]
BATCH = table._BATCH


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Return a function that makes the maps use a library."""

    def use_it(one: FakeLibrary) -> FakeLibrary:
        monkeypatch.setattr(library, "libbpf", lambda: one)
        return one

    return use_it


def numbers(key: str = "=I", value: str = "=Q") -> Table:
    return Table(3, Layout(key), Layout(value), 4 * BATCH)


def test_an_entry_stays_until_it_is_deleted(use: Use) -> None:
    use(FakeLibrary())
    calls = numbers("=II", "=QB")
    calls.put((1, 2), (3, 4))
    assert (calls.get((1, 2)), calls.get((2, 1)), len(calls)) == ((3, 4), None, 1)
    assert (calls.delete((1, 2)), calls.delete((1, 2))) == (True, False)
    assert (calls.get((1, 2)), calls.entries()) == (None, [])


@pytest.mark.parametrize(
    ("refused", "kind", "message"),
    [
        (errno.E2BIG, AgentError, "the kernel's map 'monitored_cgroups' is full with 16 entries: stop the monitoring of another"),
        (errno.ENOMEM, OSError, "Cannot allocate memory"),
    ],
)
def test_the_message_of_a_full_map_names_it(use: Use, refused: int, kind: type[Exception], message: str) -> None:
    use(FakeLibrary(update_error=refused))
    with pytest.raises(kind, match=message):
        Table(3, Layout("=Q"), Layout("=II"), 16, name="monitored_cgroups").put(7, (1, 0))


@pytest.mark.parametrize("count", [0, 1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH])
@pytest.mark.parametrize("batch_error", [0, errno.EINVAL, errno.EOPNOTSUPP, 524])
def test_all_entries_are_read_with_and_without_batches(use: Use, count: int, batch_error: int) -> None:
    use(FakeLibrary(batch_error=batch_error))
    counts = numbers()
    for number in range(count):
        counts.put(number, number * number)
    assert counts.entries() == [(number, number * number) for number in range(count)]
    assert counts.entries(limit=2) == [(number, number * number) for number in range(min(count, 2))]


def test_no_more_batches_are_read_than_the_limit_needs(use: Use) -> None:
    used = use(FakeLibrary())
    counts = numbers()
    for number in range(3 * BATCH):
        counts.put(number, 1)
    assert len(counts.entries(BATCH + 1)) == BATCH + 1
    assert used.batch_sizes == [BATCH, BATCH]


def test_a_batch_that_is_too_small_is_doubled(use: Use) -> None:
    used = use(FakeLibrary(bucket=3 * BATCH))
    counts = numbers()
    for number in range(4 * BATCH):
        counts.put(number, 1)
    assert len(counts.entries()) == 4 * BATCH
    assert used.batch_sizes == [BATCH, 2 * BATCH, 4 * BATCH, 4 * BATCH]


@pytest.mark.parametrize("refused", [errno.EPERM, errno.ENOMEM])
def test_another_error_of_a_batch_is_raised(use: Use, refused: int) -> None:
    use(FakeLibrary(batch_error=refused))
    with pytest.raises(OSError) as raised:
        numbers().entries()
    assert (raised.value.errno, raised.value.strerror) == (refused, os.strerror(refused))


def test_chosen_keys_are_deleted(use: Use) -> None:
    use(FakeLibrary())
    counts = numbers("=II")
    for target in (1, 2):
        for number in (5, 6):
            counts.put((target, number), 1)
    counts.delete_those(lambda key: key[0] == 1)
    assert [key for key, _ in counts.entries()] == [(2, 5), (2, 6)]


def test_no_values_are_read_to_choose_keys(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    used = use(FakeLibrary())
    counts = numbers()
    for number in range(10):
        counts.put(number, 1)
    monkeypatch.setattr(used, "bpf_map_lookup_batch", None)
    monkeypatch.setattr(used, "bpf_map_lookup_elem", None)
    counts.delete_those(lambda key: key % 2 == 0)
    assert [int.from_bytes(key, "little") for key in used.entries] == [1, 3, 5, 7, 9]


def test_keys_that_change_meanwhile_cause_no_endless_loop(use: Use) -> None:
    class Busy(FakeLibrary):
        def bpf_map_get_next_key(self, fd: int, before: bytes | None, following: Any) -> int:
            del self.entries[next(iter(self.entries))]  # the key that was returned last
            self.put_new()
            return super().bpf_map_get_next_key(fd, before, following)

        def put_new(self) -> None:
            self.batch_sizes.append(0)
            self.entries[len(self.batch_sizes).to_bytes(4, "little")] = bytes(8)

    used = Busy()
    used.put_new()
    use(used)
    kept: list[int] = []
    Table(3, Layout("=I"), Layout("=Q"), 50).delete_those(lambda key: bool(kept.append(key)))
    assert (len(kept), len(used.entries)) == (100, 1)


def test_a_per_cpu_value_is_a_list(use: Use) -> None:
    use(FakeLibrary())
    counts = Table(3, Layout("=I"), PerCpuLayout("=I", 4), 16)
    counts.put(7, [1, 2, 3, 4])
    assert (counts.get(7), counts.entries()) == ([1, 2, 3, 4], [(7, [1, 2, 3, 4])])
