"""Start and stop the Prometheus that scrapes the agent."""

from chaosorca.activity import activity
from chaosorca.engine import agent, prometheus
from chaosorca.engine.client import connect
from chaosorca.exceptions import InvalidArgument
from chaosorca.model.duration import parse_duration
from chaosorca.model.values import as_bool, as_int

__all__ = ["start_prometheus", "stop_prometheus"]


@activity
def start_prometheus(
    port: int = 9090,
    scrape_interval: str = "1s",
    image: str = None,
    configuration: dict = None,
    secrets: dict = None,
) -> dict:
    """
    Start Prometheus in a container of its own. It scrapes the agent, and listens on 127.0.0.1 only. If it already runs, it is kept.

    Arguments:
        port: the port on 127.0.0.1; 0 for a free port, which the other actions and probes find by themselves.
        scrape_interval: the time between scrapes, with a unit, as in "1s".
        image: an image of Prometheus to use instead of the one that chaosorca builds.

    Returns:
        {"url": its address, "started": whether this action started it}.

    Raises:
        ActivityFailed: the port is taken, or Prometheus already runs with other settings or could not be started.
    """
    number = as_int(port, "port", 0, 65535)
    interval = parse_duration(scrape_interval, "scrape_interval")
    if not 100_000 <= interval <= 60_000_000 or interval % 1000:
        raise InvalidArgument(f"scrape_interval {scrape_interval!r} must be from 100ms to 1m, in whole milliseconds")
    return prometheus.start_prometheus(connect(configuration), configuration, number, interval, image)


@activity
def stop_prometheus(keep_data: bool = False, configuration: dict = None, secrets: dict = None) -> dict:
    """
    Stop Prometheus. If it does not run, the action succeeds.

    Arguments:
        keep_data: keep the recorded data for the next `start_prometheus`.

    Returns:
        {"stopped": whether it was running}.
    """
    keep = as_bool(keep_data, "keep_data")
    client = connect(configuration)
    result = prometheus.stop_prometheus(client, keep)
    agent.retire_agent(client)
    return result
