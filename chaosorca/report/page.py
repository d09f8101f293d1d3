"""The HTML page with the faults, the measurements and the activities. It compares measurements before, during and after faults."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from chaosorca import __version__
from chaosorca.metrics.events import phases
from chaosorca.metrics.series import Column
from chaosorca.metrics.tables import Table
from chaosorca.model.record import FaultRecord
from chaosorca.model.times import iso, seconds
from chaosorca.report.elements import element, to_html
from chaosorca.report.phases import PHASES, mean, rows_of_phases, spread_first_increase
from chaosorca.report.plot import Line, Plot, Shade, clock, to_svg
from chaosorca.report.quantities import quantity

MOST_LINES = 8
_MOST_TEXT = 200
_DASHES = ("", "6 3", "2 3", "10 3 2 3", "1 5")


@dataclass(frozen=True)
class _View:
    """The presentation of a metric."""

    title: str
    unit: str
    counts: bool = False
    """Whether each column counts one kind of event. If so, the comparison of phases shows the column's name."""
    steps: bool = True


_VIEWS = {
    "http": _View("HTTP requests by status code", "/s", counts=True),
    "latency": _View("HTTP latency by quantile", "s"),
    "syscall": _View("System calls", "/s", counts=True),
    "cpu": _View("CPU", "cores"),
    "mem": _View("Memory", "B", steps=False),
    "netr": _View("Network received", "B/s"),
    "nets": _View("Network transmitted", "B/s"),
    "io": _View("Storage I/O", "B/s"),
}

_STYLE = Path(__file__).with_name("page.css")


def report(
    journal: Mapping[str, Any],
    title: str,
    tables: Mapping[tuple[str, str], Table],
    faults: Sequence[FaultRecord],
    window: float = 0.0,
) -> str:
    """Return the report of an experiment as one HTML page without external resources.

    Arguments:
        journal: the journal of Chaos Toolkit, which may be incomplete.
        title: the title of the experiment.
        tables: the measurements by container and metric.
        faults: the records of the experiment's faults.
        window: the seconds over which the tables are smoothed.
    """
    parts = [*_header(journal, title), *_faults(journal, faults)]
    for name in sorted({container for container, _ in tables}):
        of_container = {metric: tables[name, metric] for metric in _VIEWS if (name, metric) in tables}
        parts += _container(name, of_container, [fault for fault in faults if fault.container == name], window)
    parts += _activities(journal)
    parts.append(
        element("p", f"Written by chaosorca {__version__}. The figures are in the CSV files beside this page.", class_="dim")
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # The texts of an experiment are untrusted, so the policy forbids scripts and external resources.
        element("meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"),
        element("title", title),
        element("style", _STYLE.read_text(encoding="utf-8")),
    )
    return to_html(element("html", head, element("body", *parts), lang="en"))


def _header(journal: Mapping[str, Any], title: str) -> Iterable[Element]:
    experiment = journal.get("experiment") or {}
    yield element("h1", title)
    if experiment.get("description"):
        yield element("p", str(experiment["description"]))
    badges = [_badge(str(journal["status"]), journal["status"] == "completed")] if journal.get("status") else []
    for when, found in (journal.get("steady_states") or {}).items():
        states = [one for one in (found if isinstance(found, list) else [found]) if one and "steady_state_met" in one]
        met = sum(bool(one["steady_state_met"]) for one in states)
        if states:
            result = f"met {met} of {len(states)} times" if len(states) > 1 else "met" if met else "not met"
            badges.append(_badge(f"steady state {when}: {result}", met == len(states)))
    if journal.get("deviated"):
        badges.append(_badge("deviated", False))
    yield element("p", *badges)
    for reason in (journal.get("chaosorca") or {}).get("failed") or []:
        yield element("p", str(reason), class_="bad")
    about = [iso(seconds(journal["start"]))] if journal.get("start") else []
    if journal.get("duration") is not None:
        about.append(f"lasted {quantity(float(journal['duration']), 's')}")
    about += [str(journal[key]) for key in ("node", "platform") if journal.get(key)]
    yield element("p", " · ".join(about), class_="dim")


def _badge(text: str, good: bool) -> Element:
    return element("span", text, class_=f"badge {'good' if good else 'bad'}")


def _faults(journal: Mapping[str, Any], faults: Sequence[FaultRecord]) -> Iterable[Element]:
    yield element("h2", "Faults")
    if not faults:
        runs = phases(journal)["method"]
        started = any(_function(run) == "start_fault" and run.get("status") == "succeeded" for run in runs)
        yield element(
            "p", "The results of the faults are unknown, because the agent is gone." if started else "No fault was started."
        )
        return
    rows: list[list[Element | str]] = []
    for fault in faults:
        lasted = quantity(fault.ended - fault.begins, "s") if fault.ended is not None else "active when last seen"
        notes = [element("p", note, class_="warn") for note in _notes(fault)]
        rows.append(
            [
                fault.container,
                element("code", fault.text),
                fault.injector,
                element("span", clock(fault.begins), title=iso(fault.begins)),
                lasted,
                str(fault.fired),
                element("div", fault.reason, *notes),
            ]
        )
    yield _table(["container", "fault", "injector", "began (UTC)", "lasted", "calls hit", "ended because"], rows, numbers={4, 5})


def _notes(fault: FaultRecord) -> Iterable[str]:
    """Return the warnings that a reader must consider before drawing conclusions from a fault."""
    if fault.placebo:
        yield "it is a placebo: attached, without injecting anything"
    elif not fault.fired:
        yield "it never fired"
    for one in fault.not_attached:
        yield f"it was not attached to process {one.pid}: {one.reason}"
    yield from fault.warnings
    if fault.tracer_restarts:
        yield f"its tracer was restarted {fault.tracer_restarts} times"


def _container(name: str, tables: Mapping[str, Table], faults: Sequence[FaultRecord], window: float) -> Iterable[Element]:
    yield element("h2", name)
    measured = {
        metric: {column: spread_first_increase(table, column) for column in table.columns}
        for metric, table in tables.items()
        if table.times
    }
    begins = min((tables[metric].times[0] for metric in measured), default=0.0)
    ends = max((tables[metric].times[-1] for metric in measured), default=0.0)
    shades = _shades(faults, ends)
    hit = {syscall for fault in faults for syscall in [*fault.syscalls, *fault.injected]}
    if shades:
        rows = list(_comparison(measured, tables, [(shade.begins, shade.ends) for shade in shades], hit, window))
        yield _table(["mean", *PHASES], rows, numbers={1, 2, 3})
    for metric, columns in measured.items():
        view = _VIEWS[metric]
        chosen = _most_relevant(columns, hit)
        lines = [Line(name, columns[name], *drawn) for name, drawn in zip(chosen, _drawn(metric, chosen), strict=True)]
        plot = Plot(view.title, view.unit, tables[metric].times, lines, begins, ends, shades, view.steps)
        more = len(columns) - len(chosen)
        yield element(
            "h3", view.title, *([element("span", f" ({MOST_LINES} of {len(columns)} series)", class_="dim")] if more else [])
        )
        if lines:
            yield to_svg(plot)
            yield element("ul", *(element("li", _sample(line), line.name) for line in lines), class_="legend")
        else:
            yield element("p", "None recorded.", class_="dim")


def _comparison(
    measured: Mapping[str, Mapping[str, Column]],
    tables: Mapping[str, Table],
    spans: Sequence[tuple[float, float]],
    hit: set[str],
    window: float,
) -> Iterable[list[Element | str]]:
    for metric, columns in measured.items():
        view, times = _VIEWS[metric], tables[metric].times
        phased = rows_of_phases(times, spans, window)
        for column in columns:
            if metric == "syscall" and column.partition(":")[0] not in hit:
                continue
            of_phases = (mean(times, columns[column], phased[phase]) for phase in PHASES)
            yield [
                f"{view.title}: {column}" if len(columns) > 1 or view.counts else view.title,
                *("" if value is None else quantity(value, view.unit) for value in of_phases),
            ]


def _most_relevant(columns: Mapping[str, Column], hit: set[str]) -> list[str]:
    """Return the names of the columns to draw, in alphabetical order.

    Columns of faulted system calls are selected first, and then the columns with the largest sums.
    """

    def rank(name: str) -> tuple[bool, float]:
        return name.partition(":")[0] not in hit, -sum(value or 0.0 for value in columns[name])

    return sorted(sorted(columns, key=rank)[:MOST_LINES])


def _drawn(metric: str, columns: Sequence[str]) -> list[tuple[str, str]]:
    """Return the color and dash pattern of each column. HTTP codes of one class have one color and different dash patterns."""
    if metric != "http":
        return [("abcdefgh"[index % 8], "") for index in range(len(columns))]
    used: Counter[str] = Counter()
    found = []
    for column in columns:
        color = {"2": "good", "3": "a", "4": "warn", "5": "bad"}.get(column.removeprefix("client:")[:1], "h")
        found.append((color, _DASHES[used[color] % len(_DASHES)]))
        used[color] += 1
    return found


def _sample(line: Line) -> Element:
    """Return a sample of a line for the legend."""
    drawn = element("line", class_=f"line {line.color}", x1=0, x2=24, y1=5, y2=5, stroke_dasharray=line.dashes or "none")
    return element("svg", drawn, viewBox="0 0 24 10", aria_hidden="true")


def _shades(faults: Sequence[FaultRecord], until: float) -> list[Shade]:
    """Return the spans of faults. A fault without a recorded end is shown until its duration is over or the plot ends."""
    found = []
    for fault in faults:
        ends = fault.ended if fault.ended is not None else max(fault.begins, min(fault.ends, until))
        found.append(Shade(fault.begins, ends, f"fault {fault.text}"))
    return sorted(found, key=lambda shade: shade.begins)


def _activities(journal: Mapping[str, Any]) -> Iterable[Element]:
    rows = [[phase, *_activity(run)] for phase, runs in phases(journal).items() for run in runs]
    if rows:
        yield element("h2", "Activities")
        yield _table(["phase", "activity", "duration", "status", "result"], rows, numbers={2})


def _activity(run: Mapping[str, Any]) -> list[Element | str]:
    status = str(run.get("status") or "interrupted")  # Chaos Toolkit gives no status to an interrupted activity
    good = status == "succeeded" and run.get("tolerance_met", True)
    shown_status = "not met" if status == "succeeded" and not good else status
    text = _result(run.get("output"))
    if run.get("exception"):
        text = next(reversed("".join(map(str, run["exception"])).strip().splitlines()), "")
    shown = text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + " …"
    duration = quantity(float(run["duration"]), "s") if run.get("duration") is not None else ""
    name = str((run.get("activity") or {}).get("name", ""))
    return [name, duration, element("span", shown_status, class_="good" if good else "bad"), element("code", shown)]


def _result(output: object) -> str:
    if isinstance(output, float):
        return format(output, ".6g")
    try:
        return "" if output is None else json.dumps(output, default=str, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # keys that are not text, or a circular structure
        return str(output)


def _function(run: Mapping[str, Any]) -> str:
    return str(((run.get("activity") or {}).get("provider") or {}).get("func", ""))


def _table(head: Sequence[str], rows: Iterable[Sequence[Element | str]], numbers: set[int]) -> Element:
    def cells(tag: str, row: Sequence[Element | str]) -> Element:
        kinds = ({"class_": "number"} if index in numbers else {} for index in range(len(row)))
        return element("tr", *(element(tag, cell, **kind) for cell, kind in zip(row, kinds, strict=True)))

    table = element("table", element("thead", cells("th", head)), element("tbody", *(cells("td", row) for row in rows)))
    return element("div", table, class_="scroll")
