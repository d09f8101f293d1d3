"""Prometheus's container. Prometheus scrapes the agent by name. The container's port is published on 127.0.0.1 only."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Mapping
from typing import Any

import docker
import docker.errors
import requests
from docker.models.containers import Container as DockerContainer
from docker.models.volumes import Volume
from logzero import logger

from chaosorca.engine.client import engine_errors, is_local
from chaosorca.engine.containers import own_container
from chaosorca.engine.images import ensure_image
from chaosorca.engine.network import ensure_network, remove_unused_network
from chaosorca.exceptions import EngineError, PortTaken, PrometheusError
from chaosorca.model.contract import AGENT, METRICS_PORT, PROMETHEUS, PROMETHEUS_DATA, ROLE_LABEL
from chaosorca.model.duration import format_duration

INTERVAL_LABEL = "chaosorca.scrape-interval"
_PORT = "9090/tcp"
_READY_WITHIN = 30.0

_REMOTE = (
    "the Docker Engine is on another machine, so Prometheus's port on 127.0.0.1 there cannot be reached from this machine: "
    "let a Prometheus of your own scrape the agent, and set prometheus_base_url"
)

_CONFIGURATION = """\
global:
  scrape_interval: {interval}
  scrape_timeout: {interval}
scrape_configs:
  - job_name: chaosorca
    static_configs:
      - targets: ["{agent}:{port}"]
"""


def prometheus_configuration(interval: int) -> str:
    """Return Prometheus's configuration file for a scrape interval in microseconds."""
    return _CONFIGURATION.format(interval=format_duration(interval), agent=AGENT, port=METRICS_PORT)


def start_prometheus(
    client: docker.DockerClient,
    configuration: Mapping[str, Any] | None,
    port: int,
    interval: int,
    image: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Start Prometheus, unless it already runs.

    Arguments:
        client: the engine.
        configuration: the settings of chaosorca, which may name the base image.
        port: the port on 127.0.0.1; 0 for a free port.
        interval: the scrape interval in microseconds.
        image: an image to use instead of chaosorca's own image. Its entry point must be Prometheus.
        labels: further labels of the container.

    Returns:
        `url` is the address of Prometheus. `started` says whether this call started Prometheus.

    Raises:
        PortTaken: another program listens on the port. The new container has been removed.
        EngineError: the container could not be started. The new container has been removed.
        PrometheusError: Prometheus already runs with another port or interval, or does not become ready.
    """
    if not is_local(client):
        raise PrometheusError(_REMOTE)
    running = _container(client)
    if running is not None and running.status == "running":
        url = _url(running)
        if port not in (0, int(url.rsplit(":", 1)[1])):
            raise PrometheusError(f"Prometheus already runs at {url}: stop it first, or use its port")
        if running.labels.get(INTERVAL_LABEL) != format_duration(interval):
            raise PrometheusError(
                f"Prometheus already runs and scrapes every {running.labels.get(INTERVAL_LABEL)}: "
                f"stop it first to scrape every {format_duration(interval)}"
            )
        return {"url": url, "started": False}
    if running is not None:
        _remove(running)
    tag = image or ensure_image(client, "prometheus", configuration)
    network = ensure_network(client)
    logger.info("starting Prometheus, container %s", PROMETHEUS)
    container = None
    has_data = _data(client) is not None
    try:
        with engine_errors(f"starting container {PROMETHEUS!r}"):
            client.volumes.create(PROMETHEUS_DATA, labels={ROLE_LABEL: "prometheus"})
            container = client.containers.create(
                tag,
                name=PROMETHEUS,
                network=network,
                ports={_PORT: ("127.0.0.1", port or None)},
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                restart_policy={"Name": "no"},
                volumes={PROMETHEUS_DATA: {"bind": "/prometheus", "mode": "rw"}},
                labels={ROLE_LABEL: "prometheus", INTERVAL_LABEL: format_duration(interval), **(labels or {})},
            )
            container.put_archive("/etc/prometheus", _archive("prometheus.yml", prometheus_configuration(interval)))
            container.start()
            container.reload()
        url = _url(container)
        _wait_until_ready(url, container)
    except BaseException as error:
        if container is not None:
            _remove(container)
        if not has_data:
            _remove_data(client)
        remove_unused_network(client)
        if isinstance(error, EngineError) and _is_port_taken(str(error)):
            raise PortTaken(
                f"port {port} on 127.0.0.1 is taken, so Prometheus cannot listen there: choose another port, or 0 for a free one"
            ) from error
        raise
    return {"url": url, "started": True}


def stop_prometheus(client: docker.DockerClient, keep_data: bool) -> dict[str, Any]:
    """Remove Prometheus's container. Remove its data as well, unless `keep_data` is set.

    Returns:
        `stopped` says whether there was a container to remove.
    """
    container = _container(client)
    if container is not None:
        _remove(container)
    if not keep_data:
        _remove_data(client)
    remove_unused_network(client)
    return {"stopped": container is not None}


def is_running(client: docker.DockerClient) -> bool:
    """Return whether chaosorca's own Prometheus runs."""
    container = _container(client)
    return container is not None and container.status == "running"


def prometheus_label(client: docker.DockerClient, label: str) -> str | None:
    """Return the value of a label of Prometheus's container. Return None if the container or the label does not exist."""
    container = _container(client)
    return None if container is None else container.labels.get(label)


def prometheus_url(client: docker.DockerClient) -> str:
    """Return the address of chaosorca's own Prometheus.

    Raises:
        PrometheusError: Prometheus does not run, or runs on another machine.
    """
    container = _container(client)
    if container is None or container.status != "running":
        raise PrometheusError(
            "Prometheus is not running: start it (start_prometheus, the observe control, or `chaosorca prom start`), "
            "or set prometheus_base_url"
        )
    if not is_local(client):
        raise PrometheusError(_REMOTE)
    return _url(container)


def _container(client: docker.DockerClient) -> DockerContainer | None:
    return own_container(client, PROMETHEUS, "prometheus")


def _url(container: DockerContainer) -> str:
    bindings = (container.attrs["NetworkSettings"]["Ports"] or {}).get(_PORT)
    if not bindings:
        raise PrometheusError(f"container {PROMETHEUS!r} has no published port: remove it and start Prometheus again")
    return f"http://127.0.0.1:{bindings[0]['HostPort']}"


def _wait_until_ready(url: str, container: DockerContainer) -> None:
    """Wait until Prometheus answers and lists the agent as a target.

    Prometheus answers five seconds before it lists the target.
    """
    end = time.monotonic() + _READY_WITHIN
    while True:
        try:
            # The address is on this machine, so no proxy is used.
            if requests.get(f"{url}/api/v1/targets", timeout=2, proxies={"http": ""}).json()["data"]["activeTargets"]:
                return
        except (requests.RequestException, KeyError):
            pass
        with engine_errors(f"waiting for container {PROMETHEUS!r}"):
            container.reload()
            if container.status != "running" or time.monotonic() > end:
                said = container.logs(tail=3).decode(errors="replace").strip()
                raise PrometheusError(f"Prometheus did not become ready; its log ends with: {said or 'nothing'}")
        time.sleep(0.1)


def _remove(container: DockerContainer) -> None:
    with engine_errors(f"removing container {PROMETHEUS!r}"):
        try:
            container.stop(timeout=5)
            container.remove(force=True)
        except docker.errors.NotFound:
            pass


def _data(client: docker.DockerClient) -> Volume | None:
    with engine_errors(f"looking for volume {PROMETHEUS_DATA!r}"):
        try:
            return client.volumes.get(PROMETHEUS_DATA)
        except docker.errors.NotFound:
            return None


def _remove_data(client: docker.DockerClient) -> None:
    data = _data(client)
    if data is not None:
        with engine_errors(f"removing volume {PROMETHEUS_DATA!r}"):
            data.remove()


def _is_port_taken(message: str) -> bool:
    return any(sign in message for sign in ("port is already allocated", "address already in use", "port is not available"))


def _archive(name: str, text: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(text.encode())
        entry.mode = 0o644
        tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()
