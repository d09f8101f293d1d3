"""The page: what was done, what happened, and how it compares."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from chaosorca import __version__
from chaosorca.metrics.events import phases, seconds
from chaosorca.metrics.series import Column
from chaosorca.metrics.tables import Table, iso
from chaosorca.report.elements import element, to_html
from chaosorca.report.phases import PHASES, levelled, means
from chaosorca.report.plot import Line, Plot, Shade, clock, to_svg
from chaosorca.report.quantities import quantity

MOST_LINES = 8
_MOST_TEXT = 200


@dataclass(frozen=True)
class _Look:
    """How a metric is shown."""

    title: str
    unit: str
    counts: bool = False
    """Whether its columns are counters of our own, which begin when something happens first."""
    steps: bool = True


_LOOKS = {
    "http": _Look("HTTP requests by answer", "/s", counts=True),
    "latency": _Look("HTTP latency by quantile", "s"),
    "syscall": _Look("System calls", "/s", counts=True),
    "cpu": _Look("Processor", "cores"),
    "mem": _Look("Memory", "B", steps=False),
    "netr": _Look("Network, received", "B/s"),
    "nets": _Look("Network, transmitted", "B/s"),
    "io": _Look("Storage", "B/s"),
}

_STYLE = Path(__file__).with_name("page.css")


def report(
    journal: Mapping[str, Any], title: str, tables: Mapping[tuple[str, str], Table], faults: Sequence[Mapping[str, Any]]
) -> str:
    """Write the report of an experiment as one HTML page that loads nothing from anywhere.

    Arguments:
        journal: of Chaos Toolkit; what is not in it is not shown.
        title: of the experiment.
        tables: what was measured, by container and metric.
        faults: as the agent tells of them.
    """
    containers = sorted({container for container, _ in tables})
    spans = {name: _shades(faults, name) for name in containers}
    body = element("body", *_header(journal, title), *_faults(faults))
    for name in containers:
        of_container = {metric: tables[name, metric] for metric in _LOOKS if (name, metric) in tables}
        body.extend(_container(name, of_container, spans[name], faults))
    body.extend(_activities(journal))
    body.append(
        element("p", f"Written by chaosorca {__version__}. The figures are in the CSV files beside this page.", class_="dim")
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # Whatever an experiment's texts may hold, nothing in this page is run or loaded.
        element("meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"),
        element("title", title),
        element("style", _STYLE.read_text()),
    )
    return to_html(element("html", head, body, lang="en"))


def _header(journal: Mapping[str, Any], title: str) -> Iterable[Element]:
    experiment = journal.get("experiment") or {}
    yield element("h1", title)
    if experiment.get("description"):
        yield element("p", str(experiment["description"]))
    badges = [_badge(str(journal["status"]), journal["status"] == "completed")] if journal.get("status") else []
    for when, state in (journal.get("steady_states") or {}).items():
        if state and "steady_state_met" in state:
            met = bool(state["steady_state_met"])
            badges.append(_badge(f"steady state {when}: {'met' if met else 'not met'}", met))
    if journal.get("deviated"):
        badges.append(_badge("deviated", False))
    yield element("p", *badges)
    for reason in (journal.get("chaosorca") or {}).get("failed") or []:
        yield element("p", str(reason), class_="bad")
    about = [f"{journal[key]}" for key in ("start",) if journal.get(key)]
    about = [iso(seconds(at)) for at in about]
    if journal.get("duration") is not None:
        about.append(f"lasted {quantity(float(journal['duration']), 's')}")
    about += [str(journal[key]) for key in ("node", "platform") if journal.get(key)]
    yield element("p", " · ".join(about), class_="dim")


def _badge(text: str, good: bool) -> Element:
    return element("span", text, class_=f"badge {'good' if good else 'bad'}")


def _faults(faults: Sequence[Mapping[str, Any]]) -> Iterable[Element]:
    yield element("h2", "Faults")
    if not faults:
        yield element("p", "No fault was started.")
        return
    rows: list[list[Element | str]] = []
    for fault in faults:
        begins = seconds(fault["begins"])
        lasted = quantity(seconds(fault["ended"]) - begins, "s") if fault.get("ended") else "goes on"
        notes = [element("p", note, class_="warn") for note in _notes(fault)]
        rows.append(
            [
                str(fault["container"]),
                element("code", str(fault["text"])),
                str(fault.get("injector", "")),
                element("span", clock(begins), title=iso(begins)),
                lasted,
                str(sum(fault["injected"].values())),
                element("div", str(fault.get("reason") or ""), *notes),
            ]
        )
    yield _table(["container", "fault", "injector", "began (UTC)", "lasted", "calls hit", "ended because"], rows, numbers={4, 5})


def _notes(fault: Mapping[str, Any]) -> Iterable[str]:
    """What has to be known of a fault before anything is concluded from it."""
    if fault.get("placebo"):
        yield "a placebo: it was attached and hit nothing"
    elif not sum(fault["injected"].values()):
        yield "it never fired"
    for one in fault.get("not_attached") or []:
        yield f"process {one['pid']} was not attached: {one['reason']}"
    yield from (str(warning) for warning in fault.get("warnings") or [])
    if fault.get("tracer_restarts"):
        yield f"its tracer was replaced {fault['tracer_restarts']} times"


def _container(
    name: str, tables: Mapping[str, Table], shades: Sequence[Shade], faults: Sequence[Mapping[str, Any]]
) -> Iterable[Element]:
    yield element("h2", name)
    known = {metric: _columns(metric, table) for metric, table in tables.items() if table.times}
    hit = {syscall for fault in faults if fault["container"] == name for syscall in fault["injected"]}
    if shades:
        rows = list(_comparison(known, tables, [(shade.begins, shade.ends) for shade in shades], hit))
        yield _table(["mean", *PHASES], rows, numbers={1, 2, 3})
    begins = min((tables[metric].times[0] for metric in known), default=0.0)
    ends = max((tables[metric].times[-1] for metric in known), default=0.0)
    for metric, columns in known.items():
        look = _LOOKS[metric]
        chosen = _most_telling(columns, hit)
        lines = [Line(column, columns[column], _color(metric, column, index)) for index, column in enumerate(chosen)]
        plot = Plot(look.title, look.unit, tables[metric].times, lines, begins, ends, shades, look.steps)
        more = len(columns) - len(chosen)
        yield element(
            "h3", look.title, *([element("span", f" the {MOST_LINES} most of {len(columns)}", class_="dim")] if more else [])
        )
        if lines:
            yield to_svg(plot)
            yield element("ul", *(element("li", element("b", class_=line.color), line.name) for line in lines), class_="legend")
        else:
            yield element("p", "There was none.", class_="dim")


def _comparison(
    known: Mapping[str, Mapping[str, Column]], tables: Mapping[str, Table], spans: Sequence[tuple[float, float]], hit: set[str]
) -> Iterable[list[Element | str]]:
    for metric, columns in known.items():
        look = _LOOKS[metric]
        for column in columns:
            if metric == "syscall" and column.partition(":")[0] not in hit:
                continue
            of_phases = means(tables[metric], columns[column], spans)
            yield [
                f"{look.title}: {column}" if len(columns) > 1 or look.counts else look.title,
                *("" if (value := of_phases[phase]) is None else quantity(value, look.unit) for phase in PHASES),
            ]


def _columns(metric: str, table: Table) -> dict[str, Column]:
    return {name: levelled(column) if _LOOKS[metric].counts else column for name, column in table.columns.items()}


def _most_telling(columns: Mapping[str, Column], hit: set[str]) -> list[str]:
    """Those of the calls that a fault is on, and then those with the largest sums; in the order of their names."""

    def rank(name: str) -> tuple[bool, float]:
        return name.partition(":")[0] not in hit, -sum(value or 0.0 for value in columns[name])

    return sorted(sorted(columns, key=rank)[:MOST_LINES])


def _color(metric: str, column: str, index: int) -> str:
    """HTTP answers have the colors that people expect."""
    if metric == "http":
        return {"2": "good", "3": "a", "4": "warn", "5": "bad"}.get(column.removeprefix("client:")[:1], "h")
    return "abcdefgh"[index % 8]


def _shades(faults: Sequence[Mapping[str, Any]], container: str) -> list[Shade]:
    ended = [fault for fault in faults if fault["container"] == container and fault.get("ended")]
    return sorted(
        (Shade(seconds(fault["begins"]), seconds(fault["ended"]), str(fault["text"])) for fault in ended),
        key=lambda shade: shade.begins,
    )


def _activities(journal: Mapping[str, Any]) -> Iterable[Element]:
    rows = [[phase, *_activity(run)] for phase, runs in phases(journal).items() for run in runs]
    if rows:
        yield element("h2", "Activities")
        yield _table(["phase", "activity", "took", "", "result"], rows, numbers={2})


def _activity(run: Mapping[str, Any]) -> list[Element | str]:
    status = str(run.get("status", ""))
    good = status == "succeeded" and run.get("tolerance_met", True)
    said = "not met" if status == "succeeded" and not good else status
    text = _result(run.get("output"))
    if run.get("exception"):
        text = "".join(str(line) for line in run["exception"]).strip().splitlines()[-1]
    shown = text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + " …"
    took = quantity(float(run["duration"]), "s") if run.get("duration") is not None else ""
    name = str((run.get("activity") or {}).get("name", ""))
    return [name, took, element("span", said, class_="good" if good else "bad"), element("code", shown)]


def _result(output: object) -> str:
    if isinstance(output, float):
        return format(output, ".6g")
    return "" if output is None else json.dumps(output, default=str, ensure_ascii=False)


def _table(head: Sequence[str], rows: Iterable[Sequence[Element | str]], numbers: set[int]) -> Element:
    def cells(tag: str, row: Sequence[Element | str]) -> Element:
        kinds = ({"class_": "number"} if index in numbers else {} for index in range(len(row)))
        return element("tr", *(element(tag, cell, **kind) for cell, kind in zip(row, kinds, strict=True)))

    table = element("table", element("thead", cells("th", head)), element("tbody", *(cells("td", row) for row in rows)))
    return element("div", table, class_="scroll")
