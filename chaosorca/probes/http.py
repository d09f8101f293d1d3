"""Measure the HTTP requests that a container receives or makes."""

from chaosorca.activity import activity
from chaosorca.exceptions import AgentError, InvalidArgument
from chaosorca.metrics import measure, promql, recovery
from chaosorca.metrics.promql import selector
from chaosorca.model.duration import parse_seconds
from chaosorca.model.status import status_regex
from chaosorca.model.times import iso
from chaosorca.model.values import as_number
from chaosorca.sources import faults_on, open_prometheus, series_name

__all__ = ["error_ratio", "latency", "request_rate", "time_to_recover"]

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
    Measure how many HTTP requests end per second.

    Arguments:
        container: the container's name, id or id's prefix.
        status: only requests with these codes and classes, as in "200" or "4xx,5xx,none"; "none" means no answer.
        role: "server" for requests to the container, "client" for requests that it makes.
        window: the time over which the rate is averaged, with a unit.

    Returns:
        requests/s; 0.0 if there was no such request.

    Raises:
        ActivityFailed: the container is not monitored, or its last sample is older than three scrapes.
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
    Measure the share of HTTP requests that end with certain codes.

    Arguments:
        container: the container's name, id or id's prefix.
        status: the codes and classes that count as errors, as in `request_rate`.
        role: "server" or "client", as in `request_rate`.
        window: the time over which the requests are counted, with a unit.

    Returns:
        from 0.0 to 1.0.

    Raises:
        ActivityFailed: there was no request, the container is not monitored, or its last sample is older than three scrapes.
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
    Measure how long HTTP requests take, from the request to the first packet of the answer.

    Arguments:
        container: the container's name, id or id's prefix.
        quantile: the quantile, from 0 to 1; Prometheus's histogram_quantile() interpolates it between powers of two.
        role: "server" or "client", as in `request_rate`.
        window: the time over which the latency is measured, with a unit.

    Returns:
        seconds.

    Raises:
        ActivityFailed: no request was answered, the container is not monitored, or its last sample is older than three scrapes.
    """
    q, seconds = as_number(quantile, "quantile", 0, 1), parse_seconds(window, "window")
    name = series_name(container, configuration)
    buckets = selector("chaosorca_http_request_duration_seconds_bucket", container=name, role=_role(role))
    expression = promql.quantile(q, buckets, seconds)
    return measure.figure(open_prometheus(configuration), expression, name, "http", seconds, "no request was answered in it")


@activity
def time_to_recover(
    container: str,
    status: str = "5xx,none",
    role: str = "server",
    within: str = "30s",
    configuration: dict = None,
    secrets: dict = None,
) -> float:
    """
    Measure how long a container takes to recover from its latest fault. The probe waits until the container has recovered.

    The steady state is the share of failed requests in the 30 seconds before the fault. The container has recovered when the share
    is not significantly larger in three consecutive scrape intervals with requests. A binomial test at a level of 0.001 decides
    this. The test needs enough requests to detect an increase by 0.2. With too few requests, the probe waits up to one minute
    longer.

    Faults that overlap or follow each other within 30 seconds count as one. A fault that never fired is ignored if another one
    fired. A request that is never answered counts as failed when its connection ends, or after a minute.

    Arguments:
        container: the container's name, id or id's prefix.
        status: the codes and classes that count as failed, as in `request_rate`.
        role: "server" or "client", as in `request_rate`.
        within: how long the recovery may take, with a unit.

    Returns:
        seconds from the fault's end. The error is at most one scrape interval, or two scrape intervals if a status
        occurs for the first time.

    Raises:
        ActivityFailed: the container did not recover in time; no fault has ended, a fault is active, or no fault fired; no request
            ended before or after the fault; the container is not monitored, or its last sample is older than three scrapes.
    """
    code, limit = "~" + status_regex(status), parse_seconds(within, "within")
    _role(role)
    faults = faults_on(container, configuration)
    spans = []
    for one in faults:
        if one.ended is None:
            raise AgentError(
                f"fault {one.text!r} is active on container {container!r} until {iso(one.ends)}: end it first (stop_fault)"
            )
        spans.append((one.begins, one.ended))
    if not faults:
        raise AgentError(f"no fault on container {container!r} has ended since the agent started: start one and end it first")
    latest = recovery.latest(spans)
    last = [(span, one) for span, one in zip(spans, faults, strict=True) if span in latest]
    hit = [span for span, one in last if one.fired] or [span for span, one in last if one.placebo]
    if not hit:
        raise AgentError(f"fault {last[-1][1].text!r} on container {container!r} never fired: there is nothing to recover from")
    name = last[-1][1].container
    return recovery.time_to_recover(
        open_prometheus(configuration),
        name,
        selector(_REQUESTS, container=name, role=role),
        selector(_REQUESTS, container=name, role=role, code=code),
        (min(begins for begins, _ in hit), max(ended for _, ended in hit)),
        limit,
    )


def _role(role: str) -> str:
    if role not in ("server", "client"):
        raise InvalidArgument(f"role {role!r} is neither 'server' nor 'client'")
    return role
