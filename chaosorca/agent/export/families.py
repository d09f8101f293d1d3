"""`/metrics` in Prometheus's text format.

A label set that is new to a client is given to it as 0, and its value from the next scrape on: Prometheus's `rate()` cannot know
what a counter was before its first sample, so without this it would lose what a new series begins with. A new client is given what
others have seen already as it is: that did not begin now.
"""

from __future__ import annotations

import functools
import http.server
import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from prometheus_client import exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.samples import Sample

from chaosorca.agent.export.snapshot import Snapshot
from chaosorca.agent.histogram import Histogram
from chaosorca.agent.linux.packet_socket import SLOT_BOUNDS
from chaosorca.agent.monitors.resources import Resources

_CLIENTS_KEPT = 32
_OF_CALLS_AND_REQUESTS = ("chaosorca_syscall", "chaosorca_http")
_Key = tuple[str, tuple[Any, ...]]


def families(snapshot: Snapshot) -> Iterator[Any]:
    """The metric families of a snapshot; names and labels are those that the documentation lists."""
    monitored = GaugeMetricFamily("chaosorca_monitored", "1 while a monitor watches a container", labels=["container", "monitor"])
    for key in snapshot.monitored:
        monitored.add_metric(key, 1)
    yield monitored

    yield _counter("chaosorca_syscalls", "System calls made", ["container", "syscall", "error"], snapshot.syscalls)
    yield Histograms(
        "chaosorca_syscall_duration_seconds", "Duration of system calls", ["container", "syscall"], snapshot.syscall_durations
    )
    yield _counter(
        "chaosorca_http_requests",
        "HTTP requests answered, or ended without an answer (none)",
        ["container", "role", "method", "code", "tls"],
        snapshot.http,
    )
    yield Histograms(
        "chaosorca_http_request_duration_seconds",
        "Time from a request's first packet to its answer's first packet",
        ["container", "role", "tls"],
        snapshot.http_durations,
    )
    yield _counter(
        "chaosorca_http_unparsed",
        "HTTP messages, and connections with HTTP/2 or TLS of other libraries than OpenSSL's, that could not be followed",
        ["container", "reason"],
        snapshot.http_unparsed,
    )
    yield _gauge(
        "chaosorca_http_requests_in_flight", "HTTP requests without an answer yet", ["container", "role"], snapshot.http_in_flight
    )
    yield _counter(
        "chaosorca_faults_injected",
        "System calls tampered with",
        ["container", "syscall", "effect"],
        snapshot.injected,
    )
    yield _counter(
        "chaosorca_fault_calls",
        "Calls of a faulted system call since its fault began: all (kernel), and those that came by a probe (probes)",
        ["container", "syscall", "seen_by"],
        snapshot.fault_calls,
    )
    yield _gauge("chaosorca_fault_active", "1 while a fault is active, 0 after", ["container", "fault"], snapshot.fault_active)

    yield _counter(
        "chaosorca_agent_tracer_restarts",
        "Tracers that had died, or did not answer, and were replaced",
        ["container"],
        snapshot.tracer_restarts,
    )

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
            "Reads: requests to devices, or calls (chaosorca_io_source)",
            CounterMetricFamily,
            _of_io("reads"),
        ),
        ("container_fs_writes", "Writes: as container_fs_reads", CounterMetricFamily, _of_io("writes")),
    ]
    for name, what, kind, figure in figures:
        family = kind(name, what, labels=["name"])
        for name_label, value in resources.items():
            if (number := figure(value)) is not None:
                family.add_metric(name_label, number)
        yield family

    yield _gauge(
        "chaosorca_io_source",
        "1 for who counts what a container reads and writes; operations of /proc/PID/io are system calls",
        ["container", "source"],
        {(name, value.io_source): 1.0 for name, value in snapshot.resources.items()},
    )

    yield _counter(
        "chaosorca_agent_cpu_seconds", "Processor time used by the agent and its tracers", [], {(): snapshot.agent_cpu_seconds}
    )
    yield _gauge(
        "chaosorca_agent_resident_bytes",
        "Memory that the agent and its tracers have in use",
        [],
        {(): snapshot.agent_resident_bytes},
    )
    yield _gauge("chaosorca_agent_scrape_seconds", "Time to collect this answer", [], {(): snapshot.seconds})
    yield _gauge("chaosorca_agent_map_entries", "Entries in use in a kernel map", ["program", "map"], snapshot.map_entries)
    yield _counter(
        "chaosorca_agent_dropped",
        "Events that found a kernel map full, or what they belong to in use",
        ["program"],
        snapshot.dropped,
    )


def _of_io(figure: str) -> Callable[[Resources], float | None]:
    return lambda resources: getattr(resources.io, figure, None)


class Histograms:
    """A family of histograms. They are most of all lines, and the library would take ten times as long to write them."""

    type = "histogram"
    unit = ""

    def __init__(self, name: str, documentation: str, labels: list[str], values: dict[Any, Histogram]) -> None:
        self.name = name
        self.documentation = documentation
        self.values = dict(values)
        self._labels = tuple(labels)

    @property
    def samples(self) -> list[Sample]:
        """As the library has them."""
        family = HistogramMetricFamily(self.name, self.documentation, labels=self._labels)
        for key, value in self.values.items():
            family.add_metric(key, value.buckets(), value.sum)
        return list(family.samples)

    def text(self) -> str:
        """In Prometheus's text format."""
        lines = [f"# HELP {self.name} {self.documentation}\n# TYPE {self.name} histogram\n"]
        for key, value in self.values.items():
            *buckets, count, total = _beginnings(self.name, self._labels, key)
            sums = list(itertools.accumulate(value.slots))
            lines += [f"{begin}{number}\n" for begin, number in zip(buckets, sums, strict=True)]
            lines.append(f"{count}{sums[-1]}\n{total}{value.sum!r}\n")
        return "".join(lines)


@functools.lru_cache(maxsize=4096)
def _beginnings(name: str, labels: tuple[str, ...], key: tuple[str, ...]) -> list[str]:
    """What stands before the numbers of a histogram: of its buckets, the count and the sum."""
    own = "".join(f'{label}="{_escaped(value)}",' for label, value in zip(labels, key, strict=True))
    buckets = [f'{name}_bucket{{{own}le="{bound}"}} ' for bound in [*map(str, SLOT_BOUNDS), "+Inf"]]
    return [*buckets, f"{name}_count{{{own[:-1]}}} ", f"{name}_sum{{{own[:-1]}}} "]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class FirstSeenAsZero:
    """Gives each client new series of `chaosorca_` counters and histograms as 0 first.

    Figures of resources are left alone: they did not begin at 0 when the container was first watched. For one thread at a time.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[str, set[_Key]] = OrderedDict()
        self._seen_by_any: set[_Key] = set()

    def apply(self, client: str, metrics: Iterable[Any], left_out: Collection[str] = ()) -> list[Any]:
        """Return the families as a client is to see them; what there no longer is is forgotten.

        Arguments:
            client: who asks.
            metrics: the families.
            left_out: containers that are down. Their series end, and go on as they were when they are up again.
        """
        result = list(metrics)
        before = self._seen.pop(client, self._seen_by_any)
        now: set[_Key] = set()
        for family in result:
            if isinstance(family, Histograms):
                now.update((family.name, key) for key in family.values)
                family.values.update({key: Histogram() for key in family.values if (family.name, key) not in before})
                continue
            if family.type != "counter" or not family.name.startswith("chaosorca_"):
                continue
            for index, sample in enumerate(family.samples):
                key = (sample.name, tuple(sorted(sample.labels.items())))
                now.add(key)
                if key not in before:
                    family.samples[index] = Sample(sample.name, sample.labels, 0)
        for family in result if left_out else ():
            _leave_out(family, left_out)
        self._seen[client] = self._seen_by_any = now
        while len(self._seen) > _CLIENTS_KEPT:
            self._seen.popitem(last=False)
        return result


def _leave_out(family: Any, containers: Collection[str]) -> None:
    if not family.name.startswith(_OF_CALLS_AND_REQUESTS):
        return
    if isinstance(family, Histograms):
        family.values = {key: value for key, value in family.values.items() if key[0] not in containers}
    else:
        family.samples = [sample for sample in family.samples if sample.labels.get("container") not in containers]


class _Families:
    """As much of a registry as `generate_latest` needs."""

    def __init__(self, collected: list[Any]) -> None:
        self._collected = collected

    def collect(self) -> list[Any]:
        return self._collected


def in_text(collected: list[Any]) -> bytes:
    """Families in Prometheus's text format."""
    others = [family for family in collected if not isinstance(family, Histograms)]
    texts = [family.text() for family in collected if isinstance(family, Histograms)]
    return exposition.generate_latest(_Families(others)) + "".join(texts).encode()


def serve(port: int, take_snapshot: Callable[[], Snapshot]) -> http.server.ThreadingHTTPServer:
    """Serve `/metrics` on all addresses of the agent's container, in threads of its own."""
    first = FirstSeenAsZero()
    one_at_a_time = threading.Lock()  # or an older snapshot would take away what a newer one has shown already

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.split("?")[0] != "/metrics":
                self.send_error(404)
                return
            with one_at_a_time:
                snapshot = take_snapshot()
                collected = first.apply(self.client_address[0], families(snapshot), snapshot.not_running)
            body = in_text(collected)
            self.send_response(200)
            self.send_header("Content-Type", exposition.CONTENT_TYPE_LATEST)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing of each scrape."""

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128  # with the default of 5, some of many that come at once wait for seconds

    server = Server(("", port), Handler)
    threading.Thread(target=server.serve_forever, name="exporter", daemon=True).start()
    return server


def timed(take: Callable[[], Snapshot]) -> Callable[[], Snapshot]:
    """Have a snapshot say how long it took."""

    def take_and_time() -> Snapshot:
        began = time.perf_counter()
        snapshot = take()
        snapshot.seconds = time.perf_counter() - began
        return snapshot

    return take_and_time


def _counter(name: str, what: str, labels: list[str], values: dict[Any, float]) -> Any:
    return _filled(CounterMetricFamily(name, what, labels=labels), values)


def _gauge(name: str, what: str, labels: list[str], values: dict[Any, float]) -> Any:
    return _filled(GaugeMetricFamily(name, what, labels=labels), values)


def _filled(family: Any, values: dict[Any, float]) -> Any:
    for key, value in values.items():
        family.add_metric(key, value)
    return family
