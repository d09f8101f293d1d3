"""The sources of measurements: Prometheus and the agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chaosorca.engine.agent import find_agent
from chaosorca.engine.client import connect
from chaosorca.engine.containers import name_and_id
from chaosorca.engine.prometheus import prometheus_url
from chaosorca.exceptions import ContainerError, EngineError
from chaosorca.metrics.query import Prometheus
from chaosorca.model.record import FaultRecord


def open_prometheus(configuration: Mapping[str, Any] | None) -> Prometheus:
    """Return a client of the configured Prometheus (`prometheus_base_url`), or of our own Prometheus if none is configured.

    Raises:
        PrometheusError: no Prometheus is configured, and our own does not run.
        EngineError: no Prometheus is configured, and no Docker Engine answers.
    """
    url = (configuration or {}).get("prometheus_base_url")
    return Prometheus(str(url) if url else prometheus_url(connect(configuration)))


def series_name(container: str, configuration: Mapping[str, Any] | None) -> str:
    """Return the name that a container has in Prometheus. The container is given by its name, its id or a prefix of the id.

    If the container was removed, or no Docker Engine answers, return the given name, since the series still exist.
    """
    try:
        found = name_and_id(connect(configuration), container)
    except EngineError:
        found = None
    return found[0] if found else container.lstrip("/")


def faults_on(container: str, configuration: Mapping[str, Any] | None) -> list[FaultRecord]:
    """Return the faults on a container since the agent started, oldest first.

    Faults on an earlier container of the same name are included, since the container may have been re-created.

    Raises:
        ContainerError: the container does not exist, and no fault was started on it.
        EngineError: no Docker Engine answers.
    """
    client = connect(configuration)
    agent = find_agent(client)
    faults = agent.faults() if agent else []
    found = name_and_id(client, container, [(one.container, one.container_id) for one in reversed(faults)])
    if found is None:
        raise ContainerError(f"container {container!r} does not exist, and no fault was started on it")
    return [one for one in faults if one.container_id == found[1] or one.container == found[0]]
