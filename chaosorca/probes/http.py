"""HTTP requests of a container, as its clients experience them."""

from chaosorca.activity import activity
from chaosorca.exceptions import AgentError, InvalidArgument
from chaosorca.metrics import measure, promql, recovery
from chaosorca.metrics.promql import selector
from chaosorca.model.duration import parse_seconds
from chaosorca.model.status import status_regex
from chaosorca.model.times import iso
from chaosorca.model.values import as_number
from chaosorca.sources import known_faults, open_prometheus, series_name

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
    Measure how long a container takes to come back after its latest fault, and wait until it has.

    It has come back when the share of requests that go wrong is what it was in the 30 seconds before the fault, and stays so over
    three scrape intervals with requests; what chance brings once in a thousand times is allowed for (a binomial test). Requests
    have to be enough to notice a share that is larger by 0.2: where they are few, it waits up to a minute more for them. Faults
    that overlap, or follow one another within 30 seconds, count as one; those that never fired do not count beside others. A
    request that is never answered goes wrong when its connection ends, or after a minute.

    Arguments:
        container: the container's name, id or id's prefix.
        status: what counts as gone wrong, as in `request_rate`.
        role: "server" or "client", as in `request_rate`.
        within: how long it may take, with a unit.

    Returns:
        seconds from the fault's end, as exact as scrapes are: to one interval, or two where a status is new.

    Raises:
        ActivityFailed: it did not come back in that time; no fault has ended, one is active, or it never fired; no request ended
            before the fault or after it; nobody monitors the container, or its last sample is older than three scrapes.
    """
    code, limit = "~" + status_regex(status), parse_seconds(within, "within")
    _role(role)
    faults = known_faults(container, configuration)
    spans = []
    for one in faults:
        if one.ended is None:
            raise AgentError(
                f"fault {one.text!r} is active on container {container!r} until {iso(one.ends)}: end it first (stop_fault)"
            )
        spans.append((one.begins, one.ended))
    if not faults:
        raise AgentError(f"no fault on container {container!r} has ended since the agent began: start one first, and end it")
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
