"""HTTP requests of a container, as its clients experience them."""

from chaosorca.activity import activity
from chaosorca.exceptions import InvalidArgument
from chaosorca.metrics import measure, promql
from chaosorca.metrics.promql import selector
from chaosorca.model.duration import parse_seconds
from chaosorca.model.status import status_regex
from chaosorca.model.values import as_number
from chaosorca.sources import open_prometheus, series_name

__all__ = ["error_ratio", "latency", "request_rate"]

_REQUESTS = "chaosorca_http_requests_total"


@activity
def request_rate(
    container: str,
    status: str = None,
    role: str = "server",
    window: str = "15s",
    configuration: dict = None,
    secrets: dict = None,
) -> float:
    """
    Measure how many HTTP requests ended in a second.

    Arguments:
        container: the container's name, id or id's prefix.
        status: only those that ended so: a list of codes and classes, as in "200" or "4xx,5xx,none"; none: never answered.
        role: "server" for requests to the container, "client" for those that it makes.
        window: the time over which it is averaged, with a unit.

    Returns:
        requests/s; 0.0 if there was none.

    Raises:
        ActivityFailed: nobody monitors the container, or its last sample is older than three scrapes.
    """
    labels = {"role": _role(role)}
    if status is not None:
        labels["code"] = "~" + status_regex(status)
    seconds = parse_seconds(window, "window")
    name = series_name(container, configuration)
    series = selector(_REQUESTS, container=name, **labels)
    return measure.rate(open_prometheus(configuration), series, name, "http", seconds)


@activity
def error_ratio(
    container: str,
    status: str = "5xx,none",
    role: str = "server",
    window: str = "15s",
    configuration: dict = None,
    secrets: dict = None,
) -> float:
    """
    Measure the share of HTTP requests that ended in a certain way.

    Arguments:
        container: the container's name, id or id's prefix.
        status: what counts as an error, as in `request_rate`.
        role: "server" or "client", as in `request_rate`.
        window: the time over which it is averaged, with a unit.

    Returns:
        0.0 to 1.0.

    Raises:
        ActivityFailed: there was no request at all, nobody monitors the container, or its last sample is older than three scrapes.
    """
    code = "~" + status_regex(status)
    seconds = parse_seconds(window, "window")
    _role(role)
    name = series_name(container, configuration)
    whole = selector(_REQUESTS, container=name, role=role)
    part = selector(_REQUESTS, container=name, role=role, code=code)
    return measure.ratio(open_prometheus(configuration), part, whole, name, "http", seconds)


@activity
def latency(
    container: str,
    quantile: float = 0.95,
    role: str = "server",
    window: str = "15s",
    configuration: dict = None,
    secrets: dict = None,
) -> float:
    """
    Measure how long HTTP requests take, from the request to the first packet of its answer.

    Arguments:
        container: the container's name, id or id's prefix.
        quantile: which quantile, from 0 to 1; it is interpolated within powers of two, as Prometheus's histogram_quantile() does.
        role: "server" or "client", as in `request_rate`.
        window: the time over which it is taken, with a unit.

    Returns:
        seconds.

    Raises:
        ActivityFailed: no request was answered, nobody monitors the container, or its last sample is older than three scrapes.
    """
    q, seconds = as_number(quantile, "quantile", 0, 1), parse_seconds(window, "window")
    name = series_name(container, configuration)
    buckets = selector("chaosorca_http_request_duration_seconds_bucket", container=name, role=_role(role))
    expression = promql.quantile(q, buckets, seconds)
    return measure.figure(open_prometheus(configuration), expression, name, "http", seconds, "no request was answered in it")


def _role(role: str) -> str:
    if role not in ("server", "client"):
        raise InvalidArgument(f"role {role!r} is neither 'server' nor 'client'")
    return role
