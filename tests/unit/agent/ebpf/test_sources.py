"""Constants that the sources of the eBPF programs share with the agent, and the headers that they include."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chaosorca.agent.histogram import FIRST_SLOT, SLOTS
from chaosorca.agent.monitors import syscalls

SOURCES = Path(syscalls.__file__).parents[1] / "bpf"


def defined(source: str) -> dict[str, int]:
    """Return the numbers that a source file defines, by name."""
    text = (SOURCES / source).read_text()
    return {name: int(number) for name, number in re.findall(r"^#define (\w+) (\d+)\b", text, re.MULTILINE)}


def test_the_slots_of_histograms_are_the_same() -> None:
    assert defined("common.h").items() >= {"FIRST_SLOT": FIRST_SLOT, "SLOTS": SLOTS}.items()


def test_the_number_of_cgroup_flags_is_the_same() -> None:
    assert defined("syscalls.c")["GROUPS"] == syscalls._GROUPS


def test_the_ways_of_timing_are_the_same() -> None:
    expected = {"TIMED_BY_CALL": syscalls.TIMED_BY_CALL, "TIMED_BY_THREAD": syscalls.TIMED_BY_THREAD}
    assert defined("syscalls.c").items() >= expected.items()


@pytest.mark.parametrize("source", sorted(path.name for path in SOURCES.glob("*.c")))
def test_programs_include_no_headers_of_the_kernel(source: str) -> None:
    included = [name.strip('"') for name in re.findall(r"#include (\S+)", (SOURCES / source).read_text())]
    assert included != []
    assert all((SOURCES / name).is_file() for name in included)
