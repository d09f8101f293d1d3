"""The metric families of `/metrics`: names, documentation and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from chaosorca.agent.export.histogram_text import Histograms
from chaosorca.agent.export.snapshot import Snapshot
from chaosorca.agent.monitors.resources import Resources


def families(snapshot: Snapshot) -> Iterator[Any]:
    """Yield the metric families of a snapshot. docs/metrics.md lists their names and labels."""
    yield from _of_monitors(snapshot)
    yield from _of_faults(snapshot)
    yield from _of_resources(snapshot)
    yield from _of_agent(snapshot)


def _of_monitors(snapshot: Snapshot) -> Iterator[Any]:
    monitored = GaugeMetricFamily(
        "chaosorca_monitored", "1 while a monitor is attached to a container", labels=["container", "monitor"]
    )
    for key in snapshot.monitored:
        monitored.add_metric(key, 1)
    yield monitored

    yield _counter("chaosorca_syscalls", "System calls made", ["container", "syscall", "error"], snapshot.syscalls)
    yield Histograms(
        "chaosorca_syscall_duration_seconds", "Duration of system calls", ["container", "syscall"], snapshot.syscall_durations
    )
    yield _counter(
        "chaosorca_http_requests",
        "HTTP requests that were answered, or ended without an answer (code none)",
        ["container", "role", "method", "code", "tls"],
        snapshot.http,
    )
    yield Histograms(
        "chaosorca_http_request_duration_seconds",
        "Time from the first packet of a request to the first packet of its answer",
        ["container", "role", "tls"],
        snapshot.http_durations,
    )
    yield _counter(
        "chaosorca_http_unparsed",
        "HTTP messages that could not be parsed, and connections with HTTP/2, or with TLS by other libraries than OpenSSL's",
        ["container", "reason"],
        snapshot.http_unparsed,
    )
    yield _gauge(
        "chaosorca_http_requests_in_flight", "HTTP requests without an answer yet", ["container", "role"], snapshot.http_in_flight
    )


def _of_faults(snapshot: Snapshot) -> Iterator[Any]:
    yield _counter(
        "chaosorca_faults_injected",
        "System calls that a fault has hit",
        ["container", "syscall", "effect"],
        snapshot.injected,
    )
    yield _counter(
        "chaosorca_fault_calls",
        "Calls of a faulted system call since its fault began: all calls (kernel), and calls that passed a probe (probes)",
        ["container", "syscall", "seen_by"],
        snapshot.fault_calls,
    )
    yield _gauge("chaosorca_fault_active", "1 while a fault is active, 0 after", ["container", "fault"], snapshot.fault_active)
    yield _counter(
        "chaosorca_agent_tracer_restarts",
        "Tracers that were replaced because they had ended or did not answer",
        ["container"],
        snapshot.tracer_restarts,
    )


def _of_resources(snapshot: Snapshot) -> Iterator[Any]:
    resources = {(name,): value for name, value in snapshot.resources.items()}
    figures: list[tuple[str, str, Any, Callable[[Resources], float | None]]] = [
        ("container_cpu_usage_seconds", "Processor time used", CounterMetricFamily, lambda r: r.cpu_seconds),
        ("container_memory_usage_bytes", "Memory in use, page cache included", GaugeMetricFamily, lambda r: r.memory_bytes),
        ("container_network_receive_bytes", "Bytes received", CounterMetricFamily, lambda r: r.received),
        ("container_network_transmit_bytes", "Bytes transmitted", CounterMetricFamily, lambda r: r.transmitted),
        ("container_fs_reads_bytes", "Bytes read from storage", CounterMetricFamily, _of_io("read")),
        ("container_fs_writes_bytes", "Bytes written to storage", CounterMetricFamily, _of_io("written")),
        (
            "container_fs_reads",
            "Reads from storage: requests to devices, or system calls (see chaosorca_io_source)",
            CounterMetricFamily,
            _of_io("reads"),
        ),
        (
            "container_fs_writes",
            "Writes to storage: requests to devices, or system calls (see chaosorca_io_source)",
            CounterMetricFamily,
            _of_io("writes"),
        ),
    ]
    for name, what, kind, figure in figures:
        family = kind(name, what, labels=["name"])
        for name_label, value in resources.items():
            if (number := figure(value)) is not None:
                family.add_metric(name_label, number)
        yield family
    yield _gauge(
        "chaosorca_io_source",
        "1 for the source of a container's storage figures; operations of /proc/PID/io are system calls",
        ["container", "source"],
        {(name, value.io_source): 1.0 for name, value in snapshot.resources.items()},
    )


def _of_agent(snapshot: Snapshot) -> Iterator[Any]:
    yield _counter(
        "chaosorca_agent_cpu_seconds", "Processor time used by the agent and its tracers", [], {(): snapshot.agent_cpu_seconds}
    )
    yield _gauge(
        "chaosorca_agent_resident_bytes",
        "Memory in use by the agent and its tracers",
        [],
        {(): snapshot.agent_resident_bytes},
    )
    yield _gauge("chaosorca_agent_scrape_seconds", "Time to collect the figures of this scrape", [], {(): snapshot.seconds})
    yield _gauge("chaosorca_agent_map_entries", "Entries in use in a map of the kernel", ["program", "map"], snapshot.map_entries)
    yield _counter(
        "chaosorca_agent_dropped",
        "Events that are not counted because a map was full or its entry was in use",
        ["program"],
        snapshot.dropped,
    )


def _of_io(figure: str) -> Callable[[Resources], float | None]:
    return lambda resources: getattr(resources.io, figure, None)


def _counter(name: str, what: str, labels: list[str], values: dict[Any, float]) -> Any:
    return _filled(CounterMetricFamily(name, what, labels=labels), values)


def _gauge(name: str, what: str, labels: list[str], values: dict[Any, float]) -> Any:
    return _filled(GaugeMetricFamily(name, what, labels=labels), values)


def _filled(family: Any, values: dict[Any, float]) -> Any:
    for key, value in values.items():
        family.add_metric(key, value)
    return family
