"""Lines over time as SVG, with the times of faults shaded. Nothing has to be run to look at them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree.ElementTree import Element

from chaosorca.report.elements import element
from chaosorca.report.quantities import quantity, ticks

WIDTH, HEIGHT = 860, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 14, 26, 26
MOST_POINTS = 600
"""More than can be told apart: of longer lines the least and the largest value of each stretch are drawn."""
_MOST_READINGS = 200
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400)
_MOST_TIMES = 8
Place = Callable[[float], float]


@dataclass(frozen=True)
class Line:
    """A name, a value for each of the plot's times (None: not known), the class that gives it its color, and its dashes."""

    name: str
    values: Sequence[float | None]
    color: str
    dashes: str = ""


@dataclass(frozen=True)
class Shade:
    """A span of time, in seconds since 1970."""

    begins: float
    ends: float
    label: str


@dataclass(frozen=True)
class Plot:
    """Lines over the same times, in seconds since 1970.

    `steps` says what a value is: what is true of all the time since the one before it, or of its own time only. The first step
    is not drawn, as it is not known since when it is true.
    """

    title: str
    unit: str
    times: Sequence[float]
    lines: Sequence[Line]
    begins: float
    ends: float
    shades: Sequence[Shade] = ()
    steps: bool = True


def clock(at: float) -> str:
    """The time of day in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


def to_svg(plot: Plot) -> Element:
    """Draw a plot."""
    first = 1 if plot.steps else 0
    largest = max((value for line in plot.lines for value in line.values[first:] if value is not None), default=0.0)
    levels = ticks(largest)
    span = max(plot.ends - plot.begins, 1e-3)
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT

    def x(at: float) -> float:
        return _LEFT + min(max((at - plot.begins) / span, 0.0), 1.0) * (right - _LEFT)

    def y(value: float) -> float:
        return bottom - value / levels[-1] * (bottom - _TOP)

    svg = element("svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{plot.title} over time")
    shown = [shade for shade in plot.shades if shade.begins < plot.ends and shade.ends > plot.begins]
    for shade in shown:
        left, width = x(shade.begins), max(x(shade.ends) - x(shade.begins), 1.5)
        svg.append(element("rect", class_="fault", x=left, y=_TOP, width=width, height=bottom - _TOP))
    for level in levels:
        svg.append(element("line", class_="grid", x1=_LEFT, x2=right, y1=y(level), y2=y(level)))
        svg.append(element("text", quantity(level, plot.unit), x=_LEFT - 8, y=y(level) + 4, text_anchor="end"))
    for at in _round_times(plot.begins, plot.ends):
        svg.append(element("line", class_="grid", x1=x(at), x2=x(at), y1=bottom, y2=bottom + 4))
        svg.append(element("text", clock(at), x=x(at), y=HEIGHT - 6, text_anchor="middle"))
    if shown:
        svg.append(element("text", "fault", class_="fault", x=x(shown[0].begins) + 4, y=_TOP - 8))
    for line in plot.lines:
        for path in _paths(plot, line, x, y):
            svg.append(element("path", class_=f"line {line.color}", stroke_dasharray=line.dashes or "none", d=path))
    svg.extend(_readings(plot, x, bottom))
    return svg


def thinned(values: Sequence[float | None], most: int = MOST_POINTS) -> list[int]:
    """Which of the values to draw: all, or the least and the largest of each of so many stretches, with what is not known."""
    if len(values) <= most:
        return list(range(len(values)))
    length = -(-2 * len(values) // most)
    kept: list[int] = []
    for begin in range(0, len(values), length):
        known = [(value, index) for index, value in enumerate(values[begin : begin + length], begin) if value is not None]
        unknown = [index for index, value in enumerate(values[begin : begin + length], begin) if value is None][:1]
        kept += sorted({*unknown, *([min(known)[1], max(known)[1]] if known else [])})
    return kept


def _paths(plot: Plot, line: Line, x: Place, y: Place) -> list[str]:
    """The line's pieces between what is not known."""
    pieces: list[list[str]] = [[]]
    before: int | None = None
    for index in thinned(line.values):
        value = line.values[index]
        if value is None:
            pieces.append([])
        elif not plot.steps:
            pieces[-1].append(f"{x(plot.times[index]):.1f},{y(value):.1f}")
        elif before is not None:
            pieces[-1] += [f"{x(plot.times[at]):.1f},{y(value):.1f}" for at in (before, index)]
        before = index
    return [f"M{' '.join(points)}" for points in pieces if len(points) > 1]


def _readings(plot: Plot, x: Place, bottom: float) -> list[Element]:
    """Invisible strips, each of which tells the values of its times, and the faults, when it is pointed at."""
    found = []
    every = max(1, -(-len(plot.times) // _MOST_READINGS))
    for first in range(0, len(plot.times), every):
        rows = range(first, min(first + every, len(plot.times)))
        since, until = plot.times[first - 1] if first else plot.begins, plot.times[rows[-1]]
        told = [clock(until) if every == 1 else f"{clock(since)} to {clock(until)}"]
        told += [shade.label for shade in plot.shades if shade.begins < until and shade.ends > since]
        for line in plot.lines:
            known = [value for row in rows if (value := line.values[row]) is not None]
            if known:
                texts = dict.fromkeys(quantity(value, plot.unit) for value in (min(known), max(known)))
                told.append(f"{line.name}: {' to '.join(texts)}")
        place = {"x": x(since), "y": _TOP, "width": max(x(until) - x(since), 0.1), "height": bottom - _TOP}
        found.append(element("rect", element("title", "\n".join(told)), class_="reading", **place))
    return found


def _round_times(begins: float, ends: float) -> list[float]:
    step = next((step for step in _STEPS if (ends - begins) / step <= _MOST_TIMES), _STEPS[-1])
    first = -(-begins // step)
    return [at * step for at in range(int(first), int(ends // step) + 1)]
