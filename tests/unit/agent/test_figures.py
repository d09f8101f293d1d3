"""Histograms, the ledger, and what the programs for the kernel have in common with both."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import pytest

from chaosorca.agent.faults.ledger import Ledger
from chaosorca.agent.histogram import FIRST_SLOT, SLOT_BOUNDS, SLOTS, Histogram, histogram_of
from chaosorca.agent.monitors import syscalls


def test_the_bounds_are_powers_of_two_from_256_nanoseconds_to_17_seconds() -> None:
    assert (SLOTS, len(SLOT_BOUNDS)) == (28, 27)
    assert SLOT_BOUNDS[0] == 256e-9
    assert SLOT_BOUNDS[-1] == pytest.approx(17.179869184)
    assert all(later == pytest.approx(2 * earlier) for earlier, later in pairwise(SLOT_BOUNDS))


@pytest.mark.parametrize(
    ("seconds", "slot"),
    [
        (0.0, 0),
        (255e-9, 0),
        (257e-9, 1),
        (511e-9, 1),
        (513e-9, 2),
        (1e-6, 2),
        (0.001, 12),
        (0.1, 19),
        (1.0, 22),
        (17.0, 26),
        (17.2, 27),
        (3600.0, 27),
    ],
)
def test_a_duration_is_in_the_slot_of_its_bounds(seconds: float, slot: int) -> None:
    histogram = Histogram()
    histogram.observe(seconds)
    assert [index for index, count in enumerate(histogram.slots) if count] == [slot]
    assert histogram.sum == seconds
    assert seconds < (SLOT_BOUNDS[slot] if slot < SLOTS - 1 else math.inf)
    assert slot == 0 or seconds >= SLOT_BOUNDS[slot - 1]


def test_buckets_are_cumulative_and_end_with_all() -> None:
    histogram = Histogram()
    for seconds in (100e-9, 300e-9, 300e-9, 60.0):
        histogram.observe(seconds)
    buckets = histogram.buckets()
    assert [float(bound) for bound, _ in buckets] == [*SLOT_BOUNDS, math.inf]
    assert [count for _, count in buckets] == [1, *[3] * 26, 4]
    assert buckets[-1][0] == "+Inf"
    assert histogram.sum == pytest.approx(60.0000007)


def test_histograms_add_up_slot_by_slot() -> None:
    one, other = Histogram(), Histogram()
    one.observe(1.0)
    other.observe(1.0)
    other.observe(100.0)
    both = one + other
    assert (both.slots[22], both.slots[27], sum(both.slots), both.sum) == (2, 1, 3, 102.0)
    assert (sum(one.slots), sum(other.slots)) == (1, 2)


def test_a_new_histogram_is_empty_and_its_own() -> None:
    Histogram().observe(1.0)
    assert (sum(Histogram().slots), len(Histogram().slots), Histogram().sum) == (0, SLOTS, 0.0)


def test_the_ledger_counts_by_container_and_forgets_one() -> None:
    ledger = Ledger()
    for container in ("web", "web", "db"):
        ledger.add_calls(container, "openat", "EACCES", 1)
        ledger.add_injected(container, "openat", "error", 1)
        ledger.add_durations(container, "openat", histogram_of([500_000_000]))
    ledger.add_calls("web", "openat", "", 1)
    assert ledger.calls() == {("web", "openat", "EACCES"): 2, ("db", "openat", "EACCES"): 1, ("web", "openat", ""): 1}
    assert ledger.injected() == {("web", "openat", "error"): 2, ("db", "openat", "error"): 1}
    assert {key: (sum(value.slots), value.sum) for key, value in ledger.durations().items()} == {
        ("web", "openat"): (2, 1.0),
        ("db", "openat"): (1, 0.5),
    }
    ledger.forget("web")
    assert ledger.calls() == {("db", "openat", "EACCES"): 1}
    assert ledger.injected() == {("db", "openat", "error"): 1}
    assert list(ledger.durations()) == [("db", "openat")]


def test_what_the_ledger_gave_out_does_not_change() -> None:
    ledger = Ledger()
    ledger.add_calls("web", "read", "", 1)
    ledger.add_durations("web", "read", histogram_of([1_000_000_000]))
    calls, durations = ledger.calls(), ledger.durations()
    ledger.add_calls("web", "read", "", 1)
    ledger.add_durations("web", "read", histogram_of([1_000_000_000]))
    assert calls == {("web", "read", ""): 1}
    assert durations["web", "read"].sum == 1.0


SOURCES = Path(syscalls.__file__).parents[1] / "bpf"


def defined(source: str) -> dict[str, int]:
    """The numbers that a source of the programs defines, by name."""
    text = (SOURCES / source).read_text()
    return {name: int(number) for name, number in re.findall(r"^#define (\w+) (\d+)\b", text, re.MULTILINE)}


def test_the_programs_have_the_same_slots() -> None:
    assert defined("common.h").items() >= {"FIRST_SLOT": FIRST_SLOT, "SLOTS": SLOTS}.items()


def test_the_programs_know_the_same_groups() -> None:
    assert defined("syscalls.c")["GROUPS"] == syscalls._GROUPS


@pytest.mark.parametrize(("processors", "calls"), [(1, 8192), (2, 8192), (34, 8192), (64, 4369), (128, 2184), (1024, 1024)])
def test_what_each_processor_counts_by_itself_is_bounded(processors: int, calls: int) -> None:
    assert syscalls._capacities(processors) == {"calls": calls, "errors": 2 * calls}


def test_the_programs_know_the_same_kinds_of_timing() -> None:
    expected = {"TIMED_BY_CALL": syscalls.TIMED_BY_CALL, "TIMED_BY_THREAD": syscalls.TIMED_BY_THREAD}
    assert defined("syscalls.c").items() >= expected.items()


@pytest.mark.parametrize("source", sorted(path.name for path in SOURCES.glob("*.c")))
def test_no_program_reads_headers_of_the_kernels_own(source: str) -> None:
    included = [name.strip('"') for name in re.findall(r"#include (\S+)", (SOURCES / source).read_text())]
    assert included != []
    assert all((SOURCES / name).is_file() for name in included)
