"""What a program's maps contain, for debugging."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chaosorca.agent.ebpf import library
from chaosorca.agent.ebpf.layout import Layout, PerCpuLayout
from chaosorca.agent.ebpf.program import Program
from chaosorca.agent.ebpf.table import Table
from tests.support.libbpf import FakeLibrary


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> list[FakeLibrary]:
    """Two maps: the descriptor of each is its index in the list."""
    maps = [FakeLibrary(), FakeLibrary()]

    class Maps:
        def __getattr__(self, function: str) -> Any:
            return lambda fd, *arguments: getattr(maps[fd], function)(fd, *arguments)

    monkeypatch.setattr(library, "libbpf", Maps)
    return maps


@pytest.fixture
def program(libraries: list[FakeLibrary]) -> Program:
    """A program that is not loaded, with both maps."""
    one = Program.__new__(Program)
    one._tables = {
        "names": Table(0, Layout("=II"), Layout("=4s"), 100),
        "counts": Table(1, Layout("=I"), PerCpuLayout("=QB", 2), 100, is_array=True),
    }
    return one


def test_a_dump_shows_each_map_as_json(program: Program) -> None:
    program["names"].put((1, 2), b"ab\0\xff")
    program["counts"].put(0, [(1, 2), (3, 4)])
    dump = program.dump()
    assert dump == {
        "names": {"entries": 1, "content": [[[1, 2], "616200ff"]]},
        "counts": {"entries": 1, "content": [[0, [[1, 2], [3, 4]]]]},
    }
    assert json.loads(json.dumps(dump)) == dump


def test_a_dump_shows_each_map_up_to_the_limit(program: Program) -> None:
    for number in range(5):
        program["names"].put((1, number), b"name")
    assert program.dump(limit=2)["names"] == {"entries": 5, "content": [[[1, 0], "6e616d65"], [[1, 1], "6e616d65"]]}
    assert program.dump(limit=0)["names"] == {"entries": 5, "content": []}


def test_entries_of_arrays_are_not_in_use(program: Program) -> None:
    program["names"].put((1, 2), b"name")
    program["counts"].put(0, [(1, 2), (3, 4)])
    assert program.entries_in_use() == {"names": 1}
