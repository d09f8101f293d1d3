"""Names, labels, values and help texts of the metrics."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from chaosorca.agent.export.families import families
from chaosorca.agent.export.snapshot import Snapshot
from chaosorca.agent.monitors.resources import Resources
from tests.support.exposition import full_snapshot, text_of, values_of


def test_every_sample_has_its_documented_name_and_labels() -> None:
    assert values_of(families(full_snapshot())) == {
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


def test_a_figure_that_cannot_be_read_has_no_sample() -> None:
    nothing = Snapshot(resources={"web": Resources(None, None, None, None, None, "io.stat")})
    assert [name for name in values_of(families(nothing)) if name.startswith("container_")] == []


def test_every_family_has_a_type_and_a_help_text() -> None:
    lines = text_of(families(Snapshot())).splitlines()
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
        for family in text_string_to_metric_families(text_of(families(full_snapshot())))
        for sample in family.samples
        if sample.name == "chaosorca_syscall_duration_seconds_bucket"
    ]
    assert len(found) == 28
    assert found == sorted(found)
    assert [count for bound, count in found if bound < 0.001] == [0] * 12
    assert [count for bound, count in found if bound > 1] == [2] * 6
