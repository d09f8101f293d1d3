"""The containers of tests/integration/http and https: make requests from inside, and read the metrics about these requests."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from docker.models.containers import Container

from chaosorca.engine.command import run_command
from tests.support.agent_state import scrape

NGINX, PYTHON = 80, 8000
"""The ports of the two servers."""
BODY = "x" * 600
GET = "GET {} HTTP/1.1\r\nHost: x\r\n\r\n"


def run(container: Container, *command: str) -> str:
    """Run a command in a container, and return its output."""
    ended = run_command(container, command)
    assert ended.exit_code == 0, ended
    return ended.output.decode()


def is_answered(container: Container, url: str) -> bool:
    """Return whether a request from inside a container succeeds."""
    return bool(container.exec_run(["curl", "-skf", url]).exit_code == 0)


def address(container: Container, network: str = "bridge") -> str:
    """Return a container's address in a network."""
    container.reload()
    return str(container.attrs["NetworkSettings"]["Networks"][network]["IPAddress"])


def ask(container: Container, *requests: str, port: int = NGINX, host: str = "127.0.0.1", **how: Any) -> list[float]:
    """Make requests on one connection, from inside a container. Return how many seconds each request took."""
    asked = {"host": host, "port": port, "requests": requests, **how}
    return json.loads(run(container, "python3", "/client.py", json.dumps(asked)))


def figures(container: Container, metric: str, *labels: str) -> Counter[tuple[str, ...]]:
    """The values of a container's metric, by the values of some labels."""
    found: Counter[tuple[str, ...]] = Counter()
    for series, value in scrape().items():
        if series.startswith(metric + "{") and f'container="{container.name}"' in series:
            found[tuple(_label(series, label) for label in labels)] += int(value)
    return found


def in_flight(container: Container) -> dict[str, int]:
    """The number of requests that wait for their answers, by role."""
    return {role: count for (role,), count in figures(container, "chaosorca_http_requests_in_flight", "role").items()}


def _label(series: str, name: str) -> str:
    found = re.search(f'[{{,]{name}="([^"]*)"', series)
    assert found is not None, f"{series} has no label {name}"
    return found[1]
