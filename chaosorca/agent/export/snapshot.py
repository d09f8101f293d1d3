"""All figures of one scrape."""

from __future__ import annotations

from dataclasses import dataclass, field

from chaosorca.agent.histogram import Histogram
from chaosorca.agent.monitors.resources import Resources


@dataclass
class Snapshot:
    """The figures. Each key is a tuple of label values, in the order of the metric's labels."""

    monitored: list[tuple[str, str]] = field(default_factory=list)
    not_running: set[str] = field(default_factory=set)
    """Monitored containers that are down. Their series end, and continue when the container is up again."""
    syscalls: dict[tuple[str, str, str], float] = field(default_factory=dict)
    syscall_durations: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    http: dict[tuple[str, str, str, str, str], float] = field(default_factory=dict)
    http_durations: dict[tuple[str, str, str], Histogram] = field(default_factory=dict)
    http_unparsed: dict[tuple[str, str], float] = field(default_factory=dict)
    http_in_flight: dict[tuple[str, str], float] = field(default_factory=dict)
    injected: dict[tuple[str, str, str], float] = field(default_factory=dict)
    tracer_restarts: dict[tuple[str], float] = field(default_factory=dict)
    fault_calls: dict[tuple[str, str, str], float] = field(default_factory=dict)
    fault_active: dict[tuple[str, str], float] = field(default_factory=dict)
    resources: dict[str, Resources] = field(default_factory=dict)
    map_entries: dict[tuple[str, str], float] = field(default_factory=dict)
    dropped: dict[tuple[str], float] = field(default_factory=dict)
    agent_cpu_seconds: float = 0.0
    agent_resident_bytes: float = 0.0
    seconds: float = 0.0
