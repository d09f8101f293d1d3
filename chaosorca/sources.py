"""Who answers a question: the Prometheus that the configuration names, else our own; the agent of the engine."""

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
    """Return a client of `prometheus_base_url`, else of our own Prometheus on this machine.

    Raises:
        PrometheusError: neither is there.
        EngineError: no address is configured, and no Docker Engine answers.
    """
    url = (configuration or {}).get("prometheus_base_url")
    return Prometheus(str(url) if url else prometheus_url(connect(configuration)))


def series_name(container: str, configuration: Mapping[str, Any] | None) -> str:
    """The name under which a container's series are kept, for its name, id or id's prefix.

    A container that is gone, or an engine that cannot be asked, leaves the name as it was given: its series are still there.
    """
    try:
        found = name_and_id(connect(configuration), container)
    except EngineError:
        found = None
    return found[0] if found else container.lstrip("/")


def known_faults(container: str, configuration: Mapping[str, Any] | None) -> list[FaultRecord]:
    """What the agent knows of the faults of a container, by its name, id or id's prefix: ended ones too, oldest first.

    Those of a container that had the same name before belong to it: one that went with its fault may have been made anew.

    Raises:
        ContainerError: there is no such container, and none that had a fault.
        EngineError: no Docker Engine answers.
    """
    client = connect(configuration)
    agent = find_agent(client)
    faults = agent.faults() if agent else []
    found = name_and_id(client, container, [(one.container, one.container_id) for one in reversed(faults)])
    if found is None:
        raise ContainerError(f"container {container!r} does not exist, and no fault on it is known")
    return [one for one in faults if one.container_id == found[1] or one.container == found[0]]
