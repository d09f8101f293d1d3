"""`/metrics`: names, labels, values, and new series that are 0 first."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client import exposition
from prometheus_client.parser import text_string_to_metric_families

from chaosorca.agent.export.families import FirstSeenAsZero, families, in_text, serve, timed
from chaosorca.agent.export.snapshot import Snapshot
from chaosorca.agent.histogram import Histogram
from chaosorca.agent.linux.proc import Io
from chaosorca.agent.monitors.resources import Resources


def histogram(*seconds: float) -> Histogram:
    result = Histogram()
    for one in seconds:
        result.observe(one)
    return result


def full() -> Snapshot:
    """A snapshot with one value of everything."""
    return Snapshot(
        monitored=[("web", "http"), ("web", "syscalls")],
        syscalls={("web", "openat", ""): 5, ("web", "openat", "EACCES"): 2},
        syscall_durations={("web", "openat"): histogram(0.001, 0.5)},
        http={("web", "server", "GET", "200", "true"): 7, ("web", "client", "", "none", "false"): 1},
        http_durations={("web", "server", "true"): histogram(0.02)},
        http_unparsed={("web", "pipelined"): 3},
        http_in_flight={("web", "server"): 2},
        injected={("web", "openat", "error"): 4},
        fault_calls={("web", "openat", "kernel"): 9.0, ("web", "openat", "probes"): 8.0},
        fault_active={("web", 'openat:error=EACCES:when=1+"\\'): 1.0},
        resources={"web": Resources(1.5, 4096, 300, 40, Io(100, 10, 5, 2), "io.stat")},
        map_entries={("syscalls", "counts"): 12},
        dropped={("syscalls",): 1},
        agent_cpu_seconds=0.75,
        agent_resident_bytes=1e8,
        seconds=0.001,
    )


class Registry:
    """As much of a registry as the text format needs."""

    def __init__(self, collected: Any) -> None:
        self._collected = list(collected)

    def collect(self) -> Any:
        return self._collected


def parsed(written: str) -> dict[str, tuple[str, str, dict[Any, float]]]:
    """The families of a text, without their order."""
    return {
        family.name: (
            family.type,
            family.documentation,
            {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples},
        )
        for family in text_string_to_metric_families(written)
    }


def text(collected: Any) -> str:
    return exposition.generate_latest(Registry(collected)).decode()


def values(collected: Any) -> dict[str, float]:
    """Each sample by name and labels in order, as a parser of the text reads them; buckets left out."""
    return {
        f"{sample.name}{{{','.join(f'{key}={value}' for key, value in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(text(collected))
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def test_every_sample_has_its_documented_name_and_labels() -> None:
    assert values(families(full())) == {
        "chaosorca_monitored{container=web,monitor=http}": 1,
        "chaosorca_monitored{container=web,monitor=syscalls}": 1,
        "chaosorca_syscalls_total{container=web,error=,syscall=openat}": 5,
        "chaosorca_syscalls_total{container=web,error=EACCES,syscall=openat}": 2,
        "chaosorca_syscall_duration_seconds_count{container=web,syscall=openat}": 2,
        "chaosorca_syscall_duration_seconds_sum{container=web,syscall=openat}": 0.501,
        "chaosorca_http_requests_total{code=200,container=web,method=GET,role=server,tls=true}": 7,
        "chaosorca_http_requests_total{code=none,container=web,method=,role=client,tls=false}": 1,
        "chaosorca_http_request_duration_seconds_count{container=web,role=server,tls=true}": 1,
        "chaosorca_http_request_duration_seconds_sum{container=web,role=server,tls=true}": 0.02,
        "chaosorca_http_unparsed_total{container=web,reason=pipelined}": 3,
        "chaosorca_http_requests_in_flight{container=web,role=server}": 2,
        "chaosorca_faults_injected_total{container=web,effect=error,syscall=openat}": 4,
        "chaosorca_fault_calls_total{container=web,seen_by=kernel,syscall=openat}": 9,
        "chaosorca_fault_calls_total{container=web,seen_by=probes,syscall=openat}": 8,
        'chaosorca_fault_active{container=web,fault=openat:error=EACCES:when=1+"\\}': 1,
        "container_cpu_usage_seconds_total{name=web}": 1.5,
        "container_memory_usage_bytes{name=web}": 4096,
        "container_network_receive_bytes_total{name=web}": 300,
        "container_network_transmit_bytes_total{name=web}": 40,
        "container_fs_reads_bytes_total{name=web}": 100,
        "container_fs_writes_bytes_total{name=web}": 10,
        "container_fs_reads_total{name=web}": 5,
        "container_fs_writes_total{name=web}": 2,
        "chaosorca_io_source{container=web,source=io.stat}": 1,
        "chaosorca_agent_cpu_seconds_total{}": 0.75,
        "chaosorca_agent_resident_bytes{}": 1e8,
        "chaosorca_agent_scrape_seconds{}": 0.001,
        "chaosorca_agent_map_entries{map=counts,program=syscalls}": 12,
        "chaosorca_agent_dropped_total{program=syscalls}": 1,
    }


def test_what_a_host_does_not_tell_has_no_sample() -> None:
    nothing = Snapshot(resources={"web": Resources(None, None, None, None, None, "io.stat")})
    assert [name for name in values(families(nothing)) if name.startswith("container_")] == []


def test_every_family_has_a_type_and_a_help_text() -> None:
    lines = text(families(Snapshot())).splitlines()
    helped = [line.split()[2] for line in lines if line.startswith("# HELP")]
    typed = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    assert helped == list(typed)
    assert {name: kind for name, kind in typed.items() if not name.startswith("chaosorca_agent_")} == {
        "chaosorca_monitored": "gauge",
        "chaosorca_syscalls_total": "counter",
        "chaosorca_syscall_duration_seconds": "histogram",
        "chaosorca_http_requests_total": "counter",
        "chaosorca_http_request_duration_seconds": "histogram",
        "chaosorca_http_unparsed_total": "counter",
        "chaosorca_http_requests_in_flight": "gauge",
        "chaosorca_faults_injected_total": "counter",
        "chaosorca_fault_calls_total": "counter",
        "chaosorca_fault_active": "gauge",
        "container_cpu_usage_seconds_total": "counter",
        "container_memory_usage_bytes": "gauge",
        "container_network_receive_bytes_total": "counter",
        "container_network_transmit_bytes_total": "counter",
        "container_fs_reads_bytes_total": "counter",
        "container_fs_writes_bytes_total": "counter",
        "container_fs_reads_total": "counter",
        "container_fs_writes_total": "counter",
        "chaosorca_io_source": "gauge",
    }


def test_buckets_are_cumulative_up_to_all() -> None:
    found = [
        (float(sample.labels["le"]), sample.value)
        for family in text_string_to_metric_families(text(families(full())))
        for sample in family.samples
        if sample.name == "chaosorca_syscall_duration_seconds_bucket"
    ]
    assert len(found) == 28
    assert found == sorted(found)
    assert [count for bound, count in found if bound < 0.001] == [0] * 12
    assert [count for bound, count in found if bound > 1] == [2] * 6


def counted(**calls: int) -> list[Any]:
    """The families of a container with some calls, by system call."""
    return list(families(Snapshot(syscalls={("web", name, ""): count for name, count in calls.items()})))


def seen(first: FirstSeenAsZero, client: str, **calls: int) -> dict[str, float]:
    """What a client is given for the counts of system calls, by system call."""
    given = first.apply(client, counted(**calls))
    samples = [sample for family in given if family.name == "chaosorca_syscalls" for sample in family.samples]
    return {sample.labels["syscall"]: sample.value for sample in samples}


def test_a_new_series_is_0_once_and_then_its_value() -> None:
    first = FirstSeenAsZero()
    assert seen(first, "a", openat=27) == {"openat": 0}
    assert seen(first, "a", openat=27) == {"openat": 27}
    assert seen(first, "a", openat=30, read=5) == {"openat": 30, "read": 0}
    assert seen(first, "a", openat=31, read=6) == {"openat": 31, "read": 6}


def test_each_client_gets_its_own_0_of_what_began_while_it_was_there() -> None:
    first = FirstSeenAsZero()
    assert seen(first, "a") == {}
    assert seen(first, "b") == {}
    assert seen(first, "a", openat=27) == {"openat": 0}
    assert seen(first, "b", openat=28) == {"openat": 0}
    assert seen(first, "a", openat=29) == {"openat": 29}
    assert seen(first, "b", openat=30) == {"openat": 30}


def test_a_new_client_gets_what_began_before_it_came_as_it_is() -> None:
    first = FirstSeenAsZero()
    seen(first, "a", openat=27)
    assert seen(first, "b", openat=28, read=5) == {"openat": 28, "read": 0}
    assert seen(first, "b", openat=28, read=6) == {"openat": 28, "read": 6}


def test_a_series_that_went_and_came_back_is_0_again() -> None:
    first = FirstSeenAsZero()
    seen(first, "a", openat=27)
    assert seen(first, "a", openat=27, read=1) == {"openat": 27, "read": 0}
    assert seen(first, "a", read=1) == {"read": 1}
    assert seen(first, "a", openat=3, read=1) == {"openat": 0, "read": 1}
    assert seen(first, "a", openat=3, read=1) == {"openat": 3, "read": 1}


def test_a_client_that_has_not_come_for_long_is_forgotten_and_no_other() -> None:
    first = FirstSeenAsZero()
    for client in map(str, range(33)):
        seen(first, client)
    assert seen(first, "32", openat=1) == {"openat": 0}
    assert seen(first, "1", openat=2) == {"openat": 0}
    assert seen(first, "0", openat=2) == {"openat": 2}, "it is new again"


def test_counters_and_histograms_of_ours_are_0_first_and_nothing_else() -> None:
    given = values(FirstSeenAsZero().apply("a", families(full())))
    expected = values(families(full()))
    zeroed = {key for key, value in given.items() if value == 0 and expected[key] != 0}
    assert zeroed == {
        key for key in expected if key.startswith("chaosorca_") and key.split("{")[0].endswith(("_total", "_count", "_sum"))
    }
    assert {key: value for key, value in given.items() if key not in zeroed} == {
        key: value for key, value in expected.items() if key not in zeroed
    }
    assert "container_cpu_usage_seconds_total{name=web}" not in zeroed


def test_a_histogram_is_0_first_with_all_its_buckets() -> None:
    first = FirstSeenAsZero()
    for expected in (0, 2):
        given = first.apply("a", families(full()))
        buckets = [sample.value for family in given for sample in family.samples if sample.labels.get("le") == "+Inf"]
        assert buckets == [expected, expected / 2]


def test_series_of_a_container_that_is_down_end_and_go_on_as_they_were() -> None:
    first = FirstSeenAsZero()
    first.apply("a", families(full()))
    down = values(first.apply("a", families(full()), {"web"}))
    assert [name for name in down if name.startswith(("chaosorca_syscall", "chaosorca_http"))] == []
    assert "chaosorca_faults_injected_total{container=web,effect=error,syscall=openat}" in down
    assert values(first.apply("a", families(full()))) == values(families(full()))


def test_histograms_are_written_as_the_library_writes_them() -> None:
    snapshot = full()
    snapshot.syscall_durations["we\\b", 'read"\n'] = histogram(1e-7, 0.25, 100.0)
    ours, library = in_text(list(families(snapshot))).decode(), text(families(snapshot))
    assert parsed(ours) == parsed(library)


def test_a_snapshot_says_how_long_it_took() -> None:
    taken = timed(lambda: Snapshot(seconds=-1.0))()
    assert 0 <= taken.seconds < 1


@contextmanager
def served(take: Any) -> Iterator[str]:
    server = serve(0, take)
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_metrics_are_served_over_http_and_nothing_else_is() -> None:
    with served(full) as address:
        for expected in (0.0, 5.0):
            with urllib.request.urlopen(f"{address}/metrics", timeout=5) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=")
                lines = answer.read().decode().splitlines()
            assert f'chaosorca_syscalls_total{{container="web",error="",syscall="openat"}} {expected}' in lines
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/", timeout=5)


def test_an_older_snapshot_does_not_take_away_what_a_newer_one_has_shown() -> None:
    taking, newer_was_shown = threading.Event(), threading.Event()
    snapshots = iter([Snapshot(), full(), full()])

    def take() -> Snapshot:
        snapshot = next(snapshots)
        if not taking.is_set():
            taking.set()
            newer_was_shown.wait(0.5)  # in vain: the other one has to wait
        return snapshot

    def scrape() -> list[str]:
        with urllib.request.urlopen(f"{address}/metrics", timeout=5) as answer:
            return [line for line in answer.read().decode().splitlines() if line.startswith("chaosorca_http_unparsed_total")]

    with served(take) as address:
        first = threading.Thread(target=scrape)
        first.start()
        taking.wait(5)
        series = 'chaosorca_http_unparsed_total{container="web",reason="pipelined"}'
        assert scrape() == [f"{series} 0.0"]
        newer_was_shown.set()
        first.join()
        assert scrape() == [f"{series} 3.0"]
