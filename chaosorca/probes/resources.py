"""Measure the resources that a container uses."""

from chaosorca.activity import activity
from chaosorca.metrics import measure
from chaosorca.metrics.promql import selector, total_rate
from chaosorca.model.duration import parse_seconds
from chaosorca.sources import open_prometheus, series_name

__all__ = ["cpu_usage", "io_rate", "memory_usage", "network_receive_rate", "network_transmit_rate"]

_MISSING = "the agent could not read it, or it is a network figure of a container on the host's network"


@activity
def cpu_usage(container: str, window: str = "15s", configuration: dict = None, secrets: dict = None) -> float:
    """
    Measure how much processor time a container uses. The result includes the time that tracing costs the
    container's processes, but not the tracer's own time.

    Arguments:
        container: the container's name, id or id's prefix.
        window: the time over which the rate is averaged, with a unit.

    Returns:
        cores; 1.0 is one fully used core.

    Raises:
        ActivityFailed: the container is not monitored, or its last sample is older than three scrapes.
    """
    return _rate(container, window, configuration, "container_cpu_usage_seconds_total")


@activity
def memory_usage(container: str, configuration: dict = None, secrets: dict = None) -> float:
    """
    Measure how much memory a container uses, including its page cache.

    Arguments:
        container: the container's name, id or id's prefix.

    Returns:
        bytes.

    Raises:
        ActivityFailed: the container is not monitored, or its last sample is older than three scrapes.
    """
    name = series_name(container, configuration)
    expression = f"sum({selector('container_memory_usage_bytes', name=name)})"
    return measure.figure(open_prometheus(configuration), expression, name, "resources", measure.LOOK_BACK, _MISSING)


@activity
def network_receive_rate(container: str, window: str = "15s", configuration: dict = None, secrets: dict = None) -> float:
    """
    Measure how much a container receives from the network, excluding its loopback interface.

    Arguments:
        container: the container's name, id or id's prefix.
        window: the time over which the rate is averaged, with a unit.

    Returns:
        bytes/s.

    Raises:
        ActivityFailed: the container is not monitored, its last sample is older than three scrapes, or it uses the host's network.
    """
    return _rate(container, window, configuration, "container_network_receive_bytes_total")


@activity
def network_transmit_rate(container: str, window: str = "15s", configuration: dict = None, secrets: dict = None) -> float:
    """
    Measure how much a container transmits to the network, excluding its loopback interface.

    Arguments:
        container: the container's name, id or id's prefix.
        window: the time over which the rate is averaged, with a unit.

    Returns:
        bytes/s.

    Raises:
        ActivityFailed: the container is not monitored, its last sample is older than three scrapes, or it uses the host's network.
    """
    return _rate(container, window, configuration, "container_network_transmit_bytes_total")


@activity
def io_rate(container: str, window: str = "15s", configuration: dict = None, secrets: dict = None) -> float:
    """
    Measure how much a container reads from and writes to storage.

    Arguments:
        container: the container's name, id or id's prefix.
        window: the time over which the rate is averaged, with a unit.

    Returns:
        bytes/s, the sum of reads and writes.

    Raises:
        ActivityFailed: the container is not monitored, or its last sample is older than three scrapes.
    """
    return _rate(container, window, configuration, "container_fs_reads_bytes_total", "container_fs_writes_bytes_total")


def _rate(container: str, window: str, configuration: dict | None, *metrics: str) -> float:
    seconds = parse_seconds(window, "window")
    name = series_name(container, configuration)
    expression = " + ".join(total_rate(selector(metric, name=name), seconds) for metric in metrics)
    return measure.figure(open_prometheus(configuration), expression, name, "resources", seconds, _MISSING)
