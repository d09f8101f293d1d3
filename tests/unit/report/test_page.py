"""The report's parts: numbers, elements, plots, phases, and the page."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree.ElementTree import Element

import pytest

from chaosorca.metrics.tables import Table
from chaosorca.model.record import NotAttached
from chaosorca.report.elements import element, to_html
from chaosorca.report.page import MOST_LINES, report
from chaosorca.report.phases import mean, rows_of_phases, spread_first_increase
from chaosorca.report.plot import MOST_POINTS, Line, Plot, Shade, thinned, to_svg
from chaosorca.report.quantities import quantity, ticks
from tests.support.records import fault_record

START = 1_700_000_000.0  # 22:13:20


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "/s", "0 /s"),
        (49.96, "/s", "50 /s"),
        (1234.5, "/s", "1,234 /s"),
        (0.0123456, "cores", "0.0123 cores"),
        (0, "s", "0 s"),
        (0.00025, "s", "250 µs"),
        (0.0512, "s", "51.2 ms"),
        (3e-9, "s", "3 ns"),
        (61.2, "s", "61.2 s"),
        (0, "B", "0 B"),
        (999, "B", "999 B"),
        (3_420_000, "B", "3.42 MB"),
        (22_900, "B/s", "22.9 kB/s"),
        (5e9, "B", "5 GB"),
    ],
)
def test_numbers_have_readable_units(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (50, [0, 10, 20, 30, 40, 50]),
        (51, [0, 20, 40, 60]),
        (0.0061, [0, 0.002, 0.004, 0.006, 0.008]),
        (1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (12, [0, 2.5, 5, 7.5, 10, 12.5]),
        (0, [0, 1]),
    ],
)
def test_axes_have_round_numbers_up_to_the_largest(most: float, expected: list[float]) -> None:
    assert ticks(most) == pytest.approx(expected)


def test_texts_and_attributes_are_escaped() -> None:
    made = element("p", "a<b & ", element("b", "c"), "<i>", title='"><script>', class_="x", data_of="y")
    assert to_html(made) == (
        '<!DOCTYPE html>\n<p title="&quot;&gt;<script&gt;" class="x" data-of="y">a&lt;b &amp; <b>c</b>&lt;i&gt;</p>\n'
    ), "< needs no escape within quotes (HTML, 13.1.2.3)"


def plot(values: list[float | None], steps: bool = True, **how: Any) -> Plot:
    times = [START + at for at in range(len(values))]
    ends = times[-1] if times else START
    return Plot("Things", "/s", times, [Line("these", values, "a")], START, ends, steps=steps, **how)


def paths(svg: Element) -> list[list[tuple[float, float]]]:
    """Return the points of each path."""
    pieces = [one.get("d", "")[1:].split() for one in svg.iter("path")]
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in piece)] for piece in pieces]


def test_a_rate_is_a_staircase_from_its_first_known_interval() -> None:
    (points,) = paths(to_svg(plot([99, 10, 20])))
    assert [x for x, _ in points] == [78, 462, 462, 846]
    (first, second), (third, fourth) = ([y for _, y in points[:2]], [y for _, y in points[2:]])
    assert first == second > third == fourth
    assert third == 26, "the largest drawn value is at the top"


def test_a_level_is_a_line_through_its_points() -> None:
    (points,) = paths(to_svg(plot([10, 10, 20], steps=False)))
    assert [x for x, _ in points] == [78, 462, 846]


@pytest.mark.parametrize(
    ("values", "pieces"), [([1, 1, None, 1, 1], 2), ([None, 1, 1], 1), ([1, None, 1], 1), ([None, None], 0), ([1], 0), ([], 0)]
)
def test_an_unknown_value_is_a_gap(values: list[float | None], pieces: int) -> None:
    assert len(paths(to_svg(plot(values)))) == pieces


def test_faults_are_shaded_and_values_can_be_read() -> None:
    svg = to_svg(plot([1.0, 2.0, 3.0], shades=[Shade(START + 0.5, START + 1.5, "openat:error=EIO")]))
    (shade,) = [one for one in svg.iter("rect") if one.get("class") == "fault"]
    assert (float(shade.get("x", "")), float(shade.get("width", ""))) == (270, 384)
    assert readings(svg) == [
        "22:13:20\nthese: 1 /s",
        "22:13:21\nopenat:error=EIO\nthese: 2 /s",
        "22:13:22\nopenat:error=EIO\nthese: 3 /s",
    ]


def readings(svg: Element) -> list[str]:
    """Return the texts of the tooltips."""
    return [str(one.findtext("title")) for one in svg.iter("rect") if one.get("class") == "reading"]


def test_tooltips_of_long_lines_show_the_range_of_several_times() -> None:
    found = readings(to_svg(plot([float(at % 7) for at in range(10_000)])))
    assert len(found) <= 200
    assert found[1] == "22:14:09 to 22:14:59\nthese: 0 /s to 6 /s"


def test_a_long_line_keeps_its_extremes() -> None:
    values: list[float | None] = [float(index % 7) for index in range(100_000)]
    values[31_234], values[70_001], values[50_000] = 1000.0, -5.0, None
    kept = thinned(values)
    assert len(kept) <= MOST_POINTS + 3
    assert {31_234, 70_001, 50_000} < set(kept)
    assert kept == sorted(set(kept))
    assert thinned(values[:MOST_POINTS]) == list(range(MOST_POINTS))


@pytest.mark.parametrize(
    ("column", "found", "expected"),
    [
        ([0, 0, 8, 5], 1, [0, 4, 4, 5]),
        ([0, 0, 0, 8, 5, 0, 7], 2, [0, 0, 4, 4, 5, 0, 7]),
        ([0, 0, 8, 5], None, [0, 0, 8, 5]),  # it existed, without events
        ([0, 20, 10], 0, [10, 10, 10]),  # the row before is not in the table
        ([None, 20, 10], 0, [None, 20, 10]),
        ([5, None, 20, 10], 1, [5, None, 20, 10]),
        ([0, 0], 1, [0, 0]),
        ([0, 0, None, 4], 1, [0, 0, None, 4]),
        ([], None, []),
    ],
)
def test_the_first_increase_is_spread_over_its_two_intervals(column: Any, found: int | None, expected: Any) -> None:
    times = [START + at for at in range(len(column))]
    assert spread_first_increase(Table(times, {"x": column}, {} if found is None else {"x": times[found]}), "x") == expected


def test_the_first_increase_is_spread_by_the_lengths_of_its_intervals() -> None:
    assert spread_first_increase(Table([0, 1, 3, 4], {"x": [0, 0, 0, 9]}, {"x": 3}), "x") == [0, 0, 3, 3]


def test_phases_leave_out_rows_across_an_edge() -> None:
    times = [float(at) for at in range(20)]
    assert rows_of_phases(times, [(5.5, 10.5)]) == {
        "before": [1, 2, 3, 4, 5],
        "during": [9, 10],
        "after": [13, 14, 15, 16, 17, 18, 19],
    }
    two = rows_of_phases(times, [(2, 6), (9, 13)])
    assert two == {"before": [1, 2], "during": [5, 6, 12, 13], "after": [15, 16, 17, 18, 19]}
    assert rows_of_phases(times, []) == {"before": [], "during": [], "after": []}
    assert rows_of_phases([1.0], [(0, 1)]) == {"before": [], "during": [], "after": []}


def test_a_mean_is_weighted_by_time() -> None:
    times: list[float] = [0, 1, 2, 5, 6, 7, 8, 9]
    rows = rows_of_phases(times, [(5.5, 5.6)])
    found = {name: mean(times, [9, 1, None, 4, 5, 5, 0, 0], of_phase) for name, of_phase in rows.items()}
    assert found == {"before": pytest.approx((1 + 4 * 3) / 4), "during": None, "after": pytest.approx(0)}


def test_a_smoothed_row_belongs_to_the_phase_of_its_whole_window() -> None:
    found = rows_of_phases([float(at) for at in range(60)], [(10.2, 40)], window=15)
    assert {name: (rows[0], rows[-1]) for name, rows in found.items()} == {"before": (1, 10), "during": (27, 40), "after": (56, 59)}


FAULT = fault_record(injected={"openat": 507}, begins=START + 10, ended=START + 20)
TIMES = [START + at for at in range(30)]
TABLES = {
    ("web", "http"): Table(TIMES, {"200": [50.0 * (at < 11 or at > 20) for at in range(30)], "403": [0.0] * 30}),
    ("web", "mem"): Table(TIMES, {"bytes": [3e6] * 30}),
    ("web", "syscall"): Table(TIMES, {**{f"call{at}": [float(100 - at)] * 30 for at in range(20)}, "openat": [0.5] * 30}),
    ("db", "cpu"): Table([], {"cores": []}),
}
JOURNAL = {
    "status": "completed",
    "deviated": False,
    "start": "2023-11-14T22:13:10.000000+00:00",
    "duration": 42.5,
    "node": "host",
    "experiment": {"title": "t", "description": "What happens?"},
    "steady_states": {"before": {"steady_state_met": True, "probes": []}, "after": {"steady_state_met": False, "probes": []}},
    "run": [
        {"activity": {"name": "rate"}, "status": "succeeded", "duration": 0.03, "output": 14.456000000000001},
        {"activity": {"name": "wrong"}, "status": "succeeded", "tolerance_met": False, "output": {"a": "b" * 500}},
        {"activity": {"name": "fails"}, "status": "failed", "exception": ["Traceback\n", "ActivityFailed: no such thing\n"]},
    ],
    "rollbacks": [],
}


class Text(HTMLParser):
    """The visible text of a page, with a check that all tags are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [str(value) for name, value in attrs if name in ("src", "href", "action") or name.startswith("on")]
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def page(journal: Any = JOURNAL, tables: Any = TABLES, faults: Any = (FAULT,), title: str = "Does it come back?") -> Text:
    found = Text(report(journal, title, tables, list(faults)))
    assert found.open == []
    assert "script" not in found.tags
    assert found.loads == []
    return found


def test_the_page_shows_what_happened() -> None:
    text = page().text
    for text_part in (
        "Does it come back? What happens? completed steady state before: met steady state after: not met",
        "2023-11-14T22:13:10.000Z · lasted 42.5 s · host",
        "web openat:error=EACCES uprobe 22:13:30 10 s 507 it was stopped",
        "HTTP requests by status code: 200 50 /s 0 /s 50 /s",
        "HTTP requests by status code: 403 0 /s 0 /s 0 /s",
        "Memory 3 MB 3 MB 3 MB",
        "System calls: openat 0.5 /s 0.5 /s 0.5 /s",
        "method rate 30 ms succeeded 14.456",
        "method wrong not met",
        "method fails failed ActivityFailed: no such thing",
    ):
        assert text_part in text
    assert "System calls: call" not in text, "these have no fault"


def test_of_many_lines_the_faulted_and_the_largest_are_drawn() -> None:
    text = page().text
    assert f"System calls ({MOST_LINES} of 21 series)" in text
    legend = text.rpartition("call0")[2]
    assert legend.split()[: MOST_LINES - 1] == [*(f"call{at}" for at in range(1, MOST_LINES - 1)), "openat"]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"injected": {"openat": 0}}, "it never fired"),
        ({"injected": {}}, "it never fired"),
        ({"injected": {}, "placebo": True}, "it is a placebo: attached, without injecting anything"),
        ({"not_attached": (NotAttached(7, "it is traced"),)}, "it was not attached to process 7: it is traced"),
        ({"warnings": ("the container calls openat",)}, "the container calls openat"),
        ({"tracer_restarts": 2}, "its tracer was restarted 2 times"),
        ({"ended": None, "reason": "", "ends": START + 610}, "22:13:30 active when last seen 507"),
    ],
)
def test_warnings_of_a_fault_are_shown(fault: dict[str, Any], says: str) -> None:
    assert says in page(faults=[replace(FAULT, **fault)]).text
    assert ("never fired" in page(faults=[replace(FAULT, **fault)]).text) == ("never fired" in says)


def test_a_fault_that_has_not_ended_is_compared_and_shaded() -> None:
    fault = replace(FAULT, ended=None, reason="", ends=START + 610)
    assert "HTTP requests by status code: 200 50 /s 41.2 /s System" not in page(faults=[fault]).text
    assert re.search(r"HTTP requests by status code: 200 50 /s [\d.]+ /s HTTP", page(faults=[fault]).text), (
        "there is no phase after it"
    )
    assert report(JOURNAL, "t", TABLES, [fault]).count('<rect class="fault"') == 3


def test_a_placebo_is_compared_by_its_system_calls() -> None:
    assert "System calls: openat 0.5 /s" in page(faults=[replace(FAULT, injected={}, placebo=True)]).text


def test_faults_without_an_agent_are_unknown() -> None:
    start = {"activity": {"name": "breaks", "provider": {"func": "start_fault"}}, "status": "succeeded", "output": {}}
    assert "The results of the faults are unknown, because the agent is gone." in page({"run": [start]}, {}, []).text
    assert "No fault was started." in page({"run": [{**start, "status": "failed"}]}, {}, []).text


def test_a_repeated_hypothesis_is_counted() -> None:
    states = [{"steady_state_met": met, "probes": [{"activity": {"name": f"asked {met}"}}]} for met in (True, False, False)]
    text = page({**JOURNAL, "steady_states": {"before": None, "after": None, "during": states}}, {}, []).text
    assert "steady state during: met 1 of 3 times" in text
    assert text.count("hypothesis during asked") == 3


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ({("a", "b"): 1}, "('a', 'b')"),
        ({b"k": 1}, "b'k'"),
        ("\ud800", '"'),
        ({"x": {1, 2}}, "{1, 2}"),
        (b"\xff", "xff"),
        (None, ""),
    ],
)
def test_any_output_of_an_activity_gives_a_page(output: Any, says: str) -> None:
    circular: list[Any] = []
    circular.append(circular)
    run = [{"activity": {"name": "odd"}, "status": "succeeded", "output": one} for one in (output, circular)]
    run += [{"activity": None, "exception": ["\n"]}, {"activity": {"name": "cut off"}}]
    text = page({"run": run}, {}, []).text
    assert says in text
    assert "cut off interrupted" in text


def test_faults_outside_the_plot_are_not_drawn() -> None:
    outside = [replace(FAULT, begins=START + at, ended=START + at + 5) for at in (-80, 100)]
    active = replace(FAULT, begins=START + 100, ended=None, ends=START + 700)
    text = report(JOURNAL, "t", TABLES, [*outside, active])
    assert '<rect class="fault"' not in text
    assert '<text class="fault"' not in text


def test_answers_of_one_class_differ_by_their_dashes() -> None:
    tables = {("web", "http"): Table(TIMES, {code: [1.0] * 30 for code in ("200", "204", "403", "404", "500", "client:500")})}
    text = report({}, "t", tables, [])
    found = set(re.findall(r'class="line (\w+)" stroke-dasharray="([^"]+)" d=', text))
    assert found == {("good", "none"), ("good", "6 3"), ("warn", "none"), ("warn", "6 3"), ("bad", "none"), ("bad", "6 3")}


def test_results_of_verify_and_a_deviation_are_shown() -> None:
    text = page({**JOURNAL, "status": "failed", "deviated": True, "chaosorca": {"failed": ["fault 'x' fired 0 times"]}}).text
    assert "failed steady state before: met steady state after: not met deviated fault 'x' fired 0 times" in text


@pytest.mark.parametrize(
    "journal", [{}, {"run": None, "steady_states": None, "rollbacks": None}, {"steady_states": {"before": None}}]
)
def test_an_incomplete_journal_gives_a_page(journal: dict[str, Any]) -> None:
    text = page(journal, {}, []).text
    assert "Does it come back?" in text
    assert "No fault was started." in text


def test_texts_are_never_executed() -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    tables = {(evil, "http"): Table(TIMES, {evil: [1.0] * 30})}
    journal = {
        "status": evil,
        "experiment": {"description": evil},
        "node": evil,
        "run": [{"activity": {"name": evil}, "status": evil, "output": evil, "exception": [evil]}],
    }
    found = page(journal, tables, [replace(FAULT, container=evil, text=evil, reason=evil, warnings=(evil,))], evil)
    assert found.text.count("<script>alert(1)</script>") > 8
    assert "img" not in found.tags


def test_the_page_loads_nothing() -> None:
    text = report(JOURNAL, "t", TABLES, [FAULT])
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'\"" in text
    assert "http://" not in text
    assert "https://" not in text
