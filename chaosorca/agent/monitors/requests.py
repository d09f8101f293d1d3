"""The HTTP requests to a container, for abort conditions."""

from __future__ import annotations

from dataclasses import dataclass

from chaosorca.agent.histogram import Histogram


@dataclass(frozen=True)
class Requests:
    """The ended HTTP requests to a container: their number by status code, and their latencies."""

    by_code: dict[str, int]
    latency: Histogram
