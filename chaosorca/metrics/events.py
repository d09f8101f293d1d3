"""What happened when: the journal of an experiment and the agent's record of faults, as one list of events."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chaosorca.model.record import FaultRecord
from chaosorca.model.times import iso, seconds


@dataclass(frozen=True, order=True)
class Event:
    """Something that happened at a time in seconds since 1970."""

    at: float
    event: str
    container: str = ""
    detail: str = ""


def fault_events(faults: Iterable[FaultRecord]) -> list[Event]:
    """Return when faults began and, unless they are active, ended."""
    events = []
    for fault in faults:
        events.append(Event(fault.begins, "fault_begin", fault.container, fault.text))
        if fault.ended is not None:
            events.append(
                Event(fault.ended, "fault_end", fault.container, f"{fault.text} ({fault.reason}; injected {fault.fired})")
            )
    return events


def journal_events(journal: Mapping[str, Any]) -> list[Event]:
    """When an experiment, its phases and their activities began and ended; what did not happen is not there."""
    experiment = journal.get("experiment") or {}
    events = _span(journal, "experiment", str(experiment.get("title", "")))
    for phase, runs in phases(journal).items():
        timed = [run for run in runs if run.get("start") and run.get("end")]
        if timed:
            begin, end = min(run["start"] for run in timed), max(run["end"] for run in timed)
            events += _span({"start": begin, "end": end}, "phase", phase)
        for run in timed:
            activity = run.get("activity") or {}
            events += _span(run, "activity", str(activity.get("name", "")))
    return events


def phases(journal: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The activities of an experiment that were run, by phase; what did not happen is empty."""
    states = journal.get("steady_states") or {}
    return {
        "hypothesis before": (states.get("before") or {}).get("probes") or [],
        "hypothesis during": [probe for state in states.get("during") or [] for probe in (state or {}).get("probes") or []],
        "method": journal.get("run") or [],
        "hypothesis after": (states.get("after") or {}).get("probes") or [],
        "rollbacks": journal.get("rollbacks") or [],
    }


def to_csv(events: Iterable[Event]) -> str:
    """The events as CSV, in the order of their times."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["timestamp", "event", "container", "detail"])
    for event in sorted(set(events)):
        writer.writerow([iso(event.at), event.event, event.container, event.detail])
    return text.getvalue()


def _span(record: Mapping[str, Any], what: str, detail: str) -> list[Event]:
    return [
        Event(seconds(record[key]), f"{what}_{name}", "", detail)
        for key, name in (("start", "begin"), ("end", "end"))
        if record.get(key)
    ]
