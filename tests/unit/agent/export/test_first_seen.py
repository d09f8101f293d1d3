"""New series, which each client gets as 0 first."""

from __future__ import annotations

from typing import Any

from chaosorca.agent.export.families import families
from chaosorca.agent.export.first_seen import FirstSeenAsZero
from chaosorca.agent.export.snapshot import Snapshot
from tests.support.exposition import full_snapshot, values_of


def counted(**calls: int) -> list[Any]:
    """Return the families of a container with some calls, by system call."""
    return list(families(Snapshot(syscalls={("web", name, ""): count for name, count in calls.items()})))


def seen(first: FirstSeenAsZero, client: str, **calls: int) -> dict[str, float]:
    """Return the counts of calls that a client gets, by system call."""
    given = first.apply(client, counted(**calls))
    samples = [sample for family in given if family.name == "chaosorca_syscalls" for sample in family.samples]
    return {sample.labels["syscall"]: sample.value for sample in samples}


def test_a_new_series_is_0_first_and_then_its_value() -> None:
    first = FirstSeenAsZero()
    assert seen(first, "a", openat=27) == {"openat": 0}
    assert seen(first, "a", openat=27) == {"openat": 27}
    assert seen(first, "a", openat=30, read=5) == {"openat": 30, "read": 0}
    assert seen(first, "a", openat=31, read=6) == {"openat": 31, "read": 6}


def test_each_client_that_was_there_gets_a_0() -> None:
    first = FirstSeenAsZero()
    assert seen(first, "a") == {}
    assert seen(first, "b") == {}
    assert seen(first, "a", openat=27) == {"openat": 0}
    assert seen(first, "b", openat=28) == {"openat": 0}
    assert seen(first, "a", openat=29) == {"openat": 29}
    assert seen(first, "b", openat=30) == {"openat": 30}


def test_a_new_client_gets_older_series_with_their_values() -> None:
    first = FirstSeenAsZero()
    seen(first, "a", openat=27)
    assert seen(first, "b", openat=28, read=5) == {"openat": 28, "read": 0}
    assert seen(first, "b", openat=28, read=6) == {"openat": 28, "read": 6}


def test_a_series_that_returns_is_0_again() -> None:
    first = FirstSeenAsZero()
    seen(first, "a", openat=27)
    assert seen(first, "a", openat=27, read=1) == {"openat": 27, "read": 0}
    assert seen(first, "a", read=1) == {"read": 1}
    assert seen(first, "a", openat=3, read=1) == {"openat": 0, "read": 1}
    assert seen(first, "a", openat=3, read=1) == {"openat": 3, "read": 1}


def test_only_the_least_recent_client_is_forgotten() -> None:
    first = FirstSeenAsZero()
    for client in map(str, range(33)):
        seen(first, client)
    assert seen(first, "32", openat=1) == {"openat": 0}
    assert seen(first, "1", openat=2) == {"openat": 0}
    assert seen(first, "0", openat=2) == {"openat": 2}, "a forgotten client counts as new"


def test_only_counters_and_histograms_of_chaosorca_are_0_first() -> None:
    given = values_of(FirstSeenAsZero().apply("a", families(full_snapshot())))
    expected = values_of(families(full_snapshot()))
    zeroed = {key for key, value in given.items() if value == 0 and expected[key] != 0}
    assert zeroed == {
        key for key in expected if key.startswith("chaosorca_") and key.split("{")[0].endswith(("_total", "_count", "_sum"))
    }
    assert {key: value for key, value in given.items() if key not in zeroed} == {
        key: value for key, value in expected.items() if key not in zeroed
    }
    assert "container_cpu_usage_seconds_total{name=web}" not in zeroed


def test_a_new_histogram_is_0_in_all_buckets() -> None:
    first = FirstSeenAsZero()
    for expected in (0, 2):
        given = first.apply("a", families(full_snapshot()))
        buckets = [sample.value for family in given for sample in family.samples if sample.labels.get("le") == "+Inf"]
        assert buckets == [expected, expected / 2]


def test_series_of_a_container_that_is_down_continue_later() -> None:
    first = FirstSeenAsZero()
    first.apply("a", families(full_snapshot()))
    down = values_of(first.apply("a", families(full_snapshot()), {"web"}))
    assert [name for name in down if name.startswith(("chaosorca_syscall", "chaosorca_http"))] == []
    assert "chaosorca_faults_injected_total{container=web,effect=error,syscall=openat}" in down
    assert values_of(first.apply("a", families(full_snapshot()))) == values_of(families(full_snapshot()))
