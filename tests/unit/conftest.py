"""Fixtures of the unit tests: a Prometheus made of a list of series."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from chaosorca.metrics.query import Series
from tests.support.fakes import START, FakePrometheus


@pytest.fixture
def prometheus() -> Callable[..., FakePrometheus]:
    """Make a fake Prometheus."""
    return FakePrometheus


@pytest.fixture
def series() -> Callable[..., Series]:
    """Make a series: `series("name", {seconds: value}, label="value")`, with seconds since a fixed time."""

    def make(metric: str, samples: Mapping[float, float], /, **labels: Any) -> Series:
        return Series({"__name__": metric, **labels}, [(START + at, float(value)) for at, value in samples.items()])

    return make
