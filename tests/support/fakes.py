"""A Prometheus made of a list of series, and an eBPF map without a kernel."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from chaosorca.metrics.query import Series
from chaosorca.model.errors import AgentError

START = 1_700_000_000.0


class FakeMap:
    """Behaves like `chaosorca.agent.ebpf.table.Table`, with room for a limited number of entries."""

    def __init__(self, room: int | None = None) -> None:
        self.content: dict[Any, Any] = {}
        self.room = room

    def put(self, key: Any, value: Any) -> None:
        """Set an entry."""
        if key not in self.content and len(self.content) == self.room:
            raise AgentError("the kernel's map is full")
        self.content[key] = value

    def delete(self, key: Any) -> None:
        """Delete an entry if it exists."""
        self.content.pop(key, None)

    def delete_those(self, chosen: Callable[[Any], bool]) -> None:
        """Delete the entries with the chosen keys."""
        self.content = {key: value for key, value in self.content.items() if not chosen(key)}

    def entries(self) -> list[tuple[Any, Any]]:
        """Return all entries."""
        return list(self.content.items())

    def __len__(self) -> int:
        return len(self.content)


class FakePrometheus:
    """Answers like `chaosorca.metrics.query.Prometheus`, with the series and numbers of a test."""

    address = "http://prometheus.test"

    def __init__(self, series: list[Series], numbers: Mapping[str, float] | None = None, now: float = START) -> None:
        self.series = series
        self.numbers = {"time()": now, **(numbers or {})}
        self.asked: list[str] = []

    def number(self, expression: str) -> float | None:
        """Return the number that the test gave for exactly this expression."""
        self.asked.append(expression)
        return self.numbers.get(expression)

    def samples(self, selector: str, seconds: float, end: float | None = None) -> list[Series]:
        """Return the selected series with their samples in the span."""
        self.asked.append(selector)
        last = self.numbers["time()"] if end is None else end
        parts = re.fullmatch(r"(\w+)\{(.*)\}", selector)
        assert parts is not None
        name, matchers = parts.groups()
        wanted = re.findall(r'(\w+)(=~?)"([^"]*)"', matchers)
        found = []
        for one in self.series:
            samples = [(at, value) for at, value in one.samples if last - seconds < at <= last]
            labels = {"job": "chaosorca", **one.labels}
            if samples and labels.pop("__name__") == name and all(_matches(labels, *matcher) for matcher in wanted):
                found.append(Series(labels, samples))
        return found


def _matches(labels: Mapping[str, str], name: str, operator: str, value: str) -> bool:
    actual = labels.get(name, "")
    return bool(re.fullmatch(value, actual)) if operator == "=~" else actual == value
