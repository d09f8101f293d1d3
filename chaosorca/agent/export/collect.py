"""Collects all figures of the agent into one snapshot."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from chaosorca.agent.ebpf.program import Program
from chaosorca.agent.export.cost import own_cost
from chaosorca.agent.export.snapshot import Snapshot
from chaosorca.agent.faults.faults import Faults
from chaosorca.agent.faults.ledger import Ledger
from chaosorca.agent.injectors.arming import Arming
from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.agent.monitors.monitoring import Monitoring
from chaosorca.model.record import FaultRecord

MAP_LABELS = {
    "monitored_cgroups": "watched_cgroups",
    "blocked": "deaf",
    "syscall_stops": "watched",
    "tls_unseen": "untold",
    "unprobed": "strangers",
}
"""The values of the label `map` that differ from the map's name. Label values are public, since dashboards select by them."""


class Collector:
    """Takes snapshots. A snapshot never waits for an operation of the agent."""

    def __init__(self, monitoring: Monitoring, faults: Faults, ledger: Ledger, arming: Arming, own: Cgroup | None) -> None:
        """
        Arguments:
            monitoring, faults, ledger, arming: the sources of the figures.
            own: the agent's control group, if it has one.
        """
        self._monitoring = monitoring
        self._faults = faults
        self._ledger = ledger
        self._arming = arming
        self._own = own

    def snapshot(self) -> Snapshot:
        """Return all figures now."""
        # A container that is briefly down keeps its counters, and they continue when it restarts.
        monitors = self._monitoring.monitors()
        targets = [target for target in self._monitoring.targets() if target.cgroup.exists()]
        running = {target.name for target in targets}

        def of(monitor: str, values: dict[Any, Any]) -> dict[Any, Any]:
            return {key: value for key, value in values.items() if monitor in monitors.get(key[0], ())}

        syscalls, resources = self._monitoring.syscalls, self._monitoring.resources
        own = own_cost(self._own, os.getpid())
        http = self._monitoring.http.figures()
        loaded = {"syscalls": syscalls.program(), "uprobe": self._arming.program()}
        programs = {name: program for name, program in loaded.items() if program is not None}
        calls, durations = syscalls.figures()
        records = self._faults.records()
        return Snapshot(
            not_running=set(monitors) - running,
            monitored=sorted((name, monitor) for name in running for monitor in monitors.get(name, ())),
            syscalls=_sum(of("syscalls", calls), of("syscalls", self._ledger.calls())),
            syscall_durations=_sum(of("syscalls", durations), of("syscalls", self._ledger.durations())),
            http=of("http", http.counts),
            http_durations=of("http", http.durations),
            http_unparsed=of("http", http.unparsed),
            http_in_flight=of("http", http.in_flight),
            injected=dict(self._ledger.injected()),
            tracer_restarts=self._faults.restarts(),
            fault_calls=_coverage(records),
            fault_active={
                (record.container, record.text): float(record.active)
                for record in records
                if record.active or record.container in monitors
            },
            resources=resources.read([target for target in targets if "resources" in monitors.get(target.name, ())]),
            map_entries=_entries(programs) | {("http", _label(table)): float(count) for table, count in http.entries.items()},
            dropped={(name,): float(programs[name].dropped()) if name in programs else 0.0 for name in loaded}
            | {("http",): float(http.dropped)},
            agent_cpu_seconds=own.cpu_seconds,
            agent_resident_bytes=own.resident_bytes,
        )

    def maps(self) -> dict[str, dict[str, Any]]:
        """Return the content of all maps of the loaded programs, for debugging."""
        loaded = {
            "syscalls": self._monitoring.syscalls.program(),
            "uprobe": self._arming.program(),
            **self._monitoring.http.programs(),
        }
        return {name: program.dump() for name, program in loaded.items() if program is not None}


def _entries(programs: dict[str, Program]) -> dict[tuple[str, str], float]:
    return {
        (name, _label(table)): float(count)
        for name, program in programs.items()
        for table, count in program.entries_in_use().items()
    }


def _label(table: str) -> str:
    return MAP_LABELS.get(table, table)


def _coverage(records: Iterable[FaultRecord]) -> dict[tuple[str, str, str], float]:
    """For the system calls of active faults, return how many calls the kernel has counted and how many the probes have seen."""
    return {
        (record.container, syscall, seen_by): float(count)
        for record in records
        if record.active
        for syscall, calls in record.coverage.items()
        for seen_by, count in (("kernel", calls.made), ("probes", calls.probed))
    }


def _sum(kernel: dict[Any, Any], tracer: dict[Any, Any]) -> dict[Any, Any]:
    return {**kernel, **{key: kernel[key] + value if key in kernel else value for key, value in tracer.items()}}
