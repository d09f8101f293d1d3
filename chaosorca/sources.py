"""Which Prometheus answers a question: the one that the configuration names, else our own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chaosorca.engine.client import connect
from chaosorca.engine.containers import name_and_id
from chaosorca.engine.prometheus import prometheus_url
from chaosorca.exceptions import EngineError
from chaosorca.metrics.client import Prometheus


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
