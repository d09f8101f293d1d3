"""The status and the metrics of the running agent."""

from __future__ import annotations

import urllib.request
from typing import Any

import docker

from chaosorca.engine.agent import find_agent
from chaosorca.engine.client import connect
from chaosorca.model.contract import AGENT, METRICS_PORT, NETWORK


def agent_status() -> dict[str, Any]:
    """Return the agent's status."""
    agent = find_agent(connect())
    assert agent is not None
    return agent.ask("status")


def last_fault() -> dict[str, Any]:
    """Return the record of the fault that was started last."""
    fault: dict[str, Any] = agent_status()["faults"][-1]
    return fault


def scrape() -> dict[str, float]:
    """Read the agent's metrics twice, and return the second result. A new series is 0 in the first result."""
    address = docker.from_env().containers.get(AGENT).attrs["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]
    for _ in range(2):
        with urllib.request.urlopen(f"http://{address}:{METRICS_PORT}/metrics") as answer:
            text = answer.read().decode()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if not line.startswith("#")}
