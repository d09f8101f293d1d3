"""Plots of lines over time, as SVG without scripts. The times of faults are shaded."""

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
"""The maximum number of points in a line. A longer line is divided into sections, each drawn as its minimum and maximum."""
_MOST_READINGS = 200
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400)
_MOST_TIMES = 8
Place = Callable[[float], float]


@dataclass(frozen=True)
class Line:
    """A line of a plot.

    Attributes:
        name: the name in the legend.
        values: one value for each time of the plot; None if the value is unknown.
        color: the CSS class of the line's color.
        dashes: the dash pattern; empty for a solid line.
    """

    name: str
    values: Sequence[float | None]
    color: str
    dashes: str = ""


@dataclass(frozen=True)
class Shade:
    """A labelled span of time in seconds since 1970, shown as a shaded area."""

    begins: float
    ends: float
    label: str


@dataclass(frozen=True)
class Plot:
    """Lines over the same times, in seconds since 1970.

    With `steps`, each value applies to the whole interval since the previous time. The first value is then not drawn, because the
    beginning of its interval is unknown. Without `steps`, each value applies to its own time only.
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
    """Return the time of day in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


def to_svg(plot: Plot) -> Element:
    """Return a plot as SVG."""
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
    """Return the indices of the values to draw.

    If there are more than `most` values, only the minimum, the maximum and the first unknown value of each section are drawn.
    """
    if len(values) <= most:
        return list(range(len(values)))
    length = -(-2 * len(values) // most)
    kept: list[int] = []
    for begin in range(0, len(values), length):
        present = [(value, index) for index, value in enumerate(values[begin : begin + length], begin) if value is not None]
        unknown = [index for index, value in enumerate(values[begin : begin + length], begin) if value is None][:1]
        kept += sorted({*unknown, *([min(present)[1], max(present)[1]] if present else [])})
    return kept


def _paths(plot: Plot, line: Line, x: Place, y: Place) -> list[str]:
    """Return the paths of a line, split at unknown values."""
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
    """Return invisible strips with tooltips. Each tooltip shows the values and the faults in the time span of its strip."""
    found = []
    every = max(1, -(-len(plot.times) // _MOST_READINGS))
    for first in range(0, len(plot.times), every):
        rows = range(first, min(first + every, len(plot.times)))
        since, until = plot.times[first - 1] if first else plot.begins, plot.times[rows[-1]]
        lines = [clock(until) if every == 1 else f"{clock(since)} to {clock(until)}"]
        lines += [shade.label for shade in plot.shades if shade.begins < until and shade.ends > since]
        for line in plot.lines:
            present = [value for row in rows if (value := line.values[row]) is not None]
            if present:
                texts = dict.fromkeys(quantity(value, plot.unit) for value in (min(present), max(present)))
                lines.append(f"{line.name}: {' to '.join(texts)}")
        place = {"x": x(since), "y": _TOP, "width": max(x(until) - x(since), 0.1), "height": bottom - _TOP}
        found.append(element("rect", element("title", "\n".join(lines)), class_="reading", **place))
    return found


def _round_times(begins: float, ends: float) -> list[float]:
    step = next((step for step in _STEPS if (ends - begins) / step <= _MOST_TIMES), _STEPS[-1])
    first = -(-begins // step)
    return [at * step for at in range(int(first), int(ends // step) + 1)]
