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
    Start Prometheus in a container of its own, scraping the agent, with its port on 127.0.0.1 only. One that runs already is kept.

    Arguments:
        port: the port on 127.0.0.1; 0 takes a free one, which everything here finds again.
        scrape_interval: the time between scrapes, with a unit, as in "1s".
        image: a ready image of Prometheus, instead of the one that is built here.

    Returns:
        {"url": its address, "started": whether it was started now}.

    Raises:
        ActivityFailed: the port is taken, Prometheus runs already with other settings, or could not be started.
    """
    number = as_int(port, "port", 0, 65535)
    interval = parse_duration(scrape_interval, "scrape_interval")
    if not 100_000 <= interval <= 60_000_000 or interval % 1000:
        raise InvalidArgument(f"scrape_interval {scrape_interval!r} is not from 100ms to 1m, in whole milliseconds")
    return prometheus.start_prometheus(connect(configuration), configuration, number, interval, image)


@activity
def stop_prometheus(keep_data: bool = False, configuration: dict = None, secrets: dict = None) -> dict:
    """
    Stop Prometheus. None running is success.

    Arguments:
        keep_data: keep what it has recorded, for the next `start_prometheus`.

    Returns:
        {"stopped": whether one was running}.
    """
    keep = as_bool(keep_data, "keep_data")
    client = connect(configuration)
    result = prometheus.stop_prometheus(client, keep)
    agent.retire_agent(client)
    return result
