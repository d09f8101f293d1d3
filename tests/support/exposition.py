"""A snapshot with a value for every metric, and the samples that a parser of Prometheus's text format reads from it."""

from __future__ import annotations

from typing import Any

from prometheus_client import exposition
from prometheus_client.parser import text_string_to_metric_families

from chaosorca.agent.export.snapshot import Snapshot
from chaosorca.agent.histogram import Histogram
from chaosorca.agent.linux.proc import Io
from chaosorca.agent.monitors.resources import Resources


def histogram(*seconds: float) -> Histogram:
    """The histogram of some durations."""
    result = Histogram()
    for one in seconds:
        result.observe(one)
    return result


def full_snapshot() -> Snapshot:
    """A snapshot with a value for every metric."""
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
    """The part of a registry that the text format uses."""

    def __init__(self, collected: Any) -> None:
        self._collected = list(collected)

    def collect(self) -> Any:
        """The families of metrics."""
        return self._collected


def text_of(collected: Any) -> str:
    """The text of families as `prometheus_client` writes it."""
    return exposition.generate_latest(Registry(collected)).decode()


def values_of(collected: Any) -> dict[str, float]:
    """The values of all samples except buckets, by the sample's name and sorted labels."""
    return {
        f"{sample.name}{{{','.join(f'{key}={value}' for key, value in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(text_of(collected))
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }
