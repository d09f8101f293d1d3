"""What a container uses."""

from chaosorca.activity import activity
from chaosorca.metrics import measure
from chaosorca.metrics.promql import selector
from chaosorca.model.duration import parse_seconds
from chaosorca.sources import open_prometheus, series_name

__all__ = ["cpu_usage"]


@activity
def cpu_usage(container: str, window: str = "15s", configuration: dict = None, secrets: dict = None) -> float:
    """
    Measure how much processor time a container uses. A tracer's own time is not in it, what it costs the container is.

    Arguments:
        container: the container's name, id or id's prefix.
        window: the time over which it is averaged, with a unit.

    Returns:
        cores: 1.0 is one core fully used.

    Raises:
        ActivityFailed: nobody monitors the container, or its last sample is older than three scrapes.
    """
    seconds = parse_seconds(window, "window")
    name = series_name(container, configuration)
    series = selector("container_cpu_usage_seconds_total", name=name)
    return measure.rate(open_prometheus(configuration), series, name, "resources", seconds)
