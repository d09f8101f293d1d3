"""Single figures about a monitored container.

While a container is monitored, a missing series means 0. Measuring a container that is not monitored raises an error.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from math import isnan
from statistics import median

from chaosorca.exceptions import NoData, PrometheusError
from chaosorca.metrics.promql import selector, total_rate
from chaosorca.metrics.query import Prometheus, Samples

STALE_AFTER = 3
"""A container counts as not monitored after this many scrapes without a new sample."""
LOOK_BACK = 300.0
"""The search for a container's last sample covers this many past seconds."""


def check_monitored(prometheus: Prometheus, container: str, monitor: str, window: float) -> None:
    """Check that a container is monitored. While it is monitored, a missing series means 0.

    Arguments:
        prometheus: the server to query.
        container: the container's name.
        monitor: `syscalls`, `http` or `resources`.
        window: the seconds over which a rate is computed. The window must include at least two scrapes.

    Raises:
        NoData: the container is not monitored, its last sample is stale, or the window has fewer than two samples.
    """
    series = selector("chaosorca_monitored", container=container, monitor=monitor)
    found = prometheus.samples(series, max(LOOK_BACK, window))
    samples = max((one.samples for one in found), key=lambda samples: samples[-1][0], default=[])
    now = prometheus.number("time()") or 0.0
    if not samples:
        raise NoData(
            f"{series} is empty at {prometheus.address}: the {monitor} monitor is not attached to container {container!r}, "
            "so start it (start_monitoring, the observe control, or `chaosorca monit start`)"
        )
    age, interval = now - samples[-1][0], scrape_interval(samples)
    if interval is None:
        raise NoData(f"{series} has only one sample: wait for a second scrape")
    if age > STALE_AFTER * interval:
        raise NoData(
            f"{series} is stale, without a sample for {age:.1f} s or {STALE_AFTER} scrapes: monitoring was stopped, "
            f"container {container!r} has ended, or Prometheus cannot reach the agent"
        )
    if sum(at > now - window for at, _ in samples) < 2:
        raise NoData(f"{series} has fewer than two samples in the last {window:g} s: use a window of at least two scrapes")


def rate(prometheus: Prometheus, series: str, container: str, monitor: str, window: float) -> float:
    """Return the total rate of a monitored container's selected series, per second. Return 0 if no series exists."""
    check_monitored(prometheus, container, monitor, window)
    return prometheus.number(total_rate(series, window)) or 0.0


def figure(prometheus: Prometheus, expression: str, container: str, monitor: str, window: float, what: str) -> float:
    """Return the value of an expression that may have no value. For example, a quantile has no value if no event happened.

    Arguments:
        expression: PromQL with at most one value.
        prometheus, container, monitor, window: see `check_monitored`.
        what: the probable reason for a missing value. The error message includes it.

    Raises:
        NoData: the expression has no value, or the container is not monitored.
    """
    check_monitored(prometheus, container, monitor, window)
    number = prometheus.number(expression)
    if number is None or isnan(number):
        raise NoData(f"{expression} has no value for the last {window:g} s: {what}")
    return number


def ratio(prometheus: Prometheus, part: str, whole: str, container: str, monitor: str, window: float) -> float:
    """Return the total rate of the series `part`, divided by the total rate of the series `whole`.

    Raises:
        NoData: the container is not monitored, or the ratio is undefined because the rate of `whole` is 0.
    """
    check_monitored(prometheus, container, monitor, window)
    # One expression, so that Prometheus evaluates both rates at the same time.
    found = prometheus.number(f"({total_rate(part, window)} or vector(0)) / {total_rate(whole, window)}")
    if found is None or isnan(found):
        raise NoData(f"{whole} did not grow in the last {window:g} s: a ratio needs at least one request, so send some")
    return found


def wait_for_scrapes(prometheus: Prometheus, containers: Iterable[str], scrapes: int, within: float = 60.0) -> None:
    """Wait until Prometheus has scraped the metrics of each container `scrapes` times. Scrapes before the call do not count.

    Arguments:
        prometheus: the server to query.
        containers: the names of the containers.
        scrapes: the number of scrapes.
        within: the timeout in seconds.

    Raises:
        PrometheusError: the timeout has expired.
    """
    end = time.monotonic() + within
    began = prometheus.number("time()") or 0.0
    waiting = sorted(containers)
    while True:
        waiting = [name for name in waiting if _scrapes_since(prometheus, name, began, within) < scrapes]
        if not waiting:
            return
        if time.monotonic() > end:
            raise PrometheusError(
                f"Prometheus at {prometheus.address} has not scraped the agent {scrapes} times in {within:g} s for "
                f"{', '.join(waiting)}: let it scrape the agent as job 'chaosorca', at least every {within / 4:g} s"
            )
        time.sleep(0.1)


def _scrapes_since(prometheus: Prometheus, container: str, began: float, within: float) -> int:
    found = prometheus.samples(selector("chaosorca_monitored", container=container), within)
    return max((sum(at >= began for at, _ in one.samples) for one in found), default=0)


def scrape_interval(samples: Samples) -> float | None:
    """Return the median time between two successive samples, in seconds. Return None for fewer than two samples."""
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(samples)]
    return median(gaps) if gaps else None
