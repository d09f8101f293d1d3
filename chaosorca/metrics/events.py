"""The events of an experiment, from its journal and from the records of its faults."""

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
    """An event at a time in seconds since 1970."""

    at: float
    event: str
    container: str = ""
    detail: str = ""


def fault_events(faults: Iterable[FaultRecord]) -> list[Event]:
    """Return the events of faults. An active fault has an event for its beginning, but none for its end."""
    events = []
    for fault in faults:
        events.append(Event(fault.begins, "fault_begin", fault.container, fault.text))
        if fault.ended is not None:
            events.append(
                Event(fault.ended, "fault_end", fault.container, f"{fault.text} ({fault.reason}; injected {fault.fired})")
            )
    return events


def journal_events(journal: Mapping[str, Any]) -> list[Event]:
    """Return the beginnings and ends of an experiment, its phases and its activities. Parts that did not run are left out."""
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
    """Return the executed activities of an experiment by phase. A phase that did not run has an empty list."""
    states = journal.get("steady_states") or {}
    return {
        "hypothesis before": (states.get("before") or {}).get("probes") or [],
        "hypothesis during": [probe for state in states.get("during") or [] for probe in (state or {}).get("probes") or []],
        "method": journal.get("run") or [],
        "hypothesis after": (states.get("after") or {}).get("probes") or [],
        "rollbacks": journal.get("rollbacks") or [],
    }


def to_csv(events: Iterable[Event]) -> str:
    """Return the events as CSV, ordered by time."""
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
