"""One number about a monitored container, where a missing series is a true 0 and missing monitoring is an error."""

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
"""Scrapes that may be missing before a container counts as not monitored."""
LOOK_BACK = 300.0


def check_monitored(prometheus: Prometheus, container: str, monitor: str, window: float) -> None:
    """Check that a container is being monitored, so that what is not there is 0.

    Arguments:
        container: the container's name.
        monitor: `syscalls`, `http` or `resources`.
        window: the seconds over which a rate is wanted; two scrapes have to be in them.

    Raises:
        NoData: it is not monitored, its last sample is older than three scrapes, or the window holds less than two.
    """
    series = selector("chaosorca_monitored", container=container, monitor=monitor)
    found = prometheus.samples(series, max(LOOK_BACK, window))
    samples = max((one.samples for one in found), key=lambda samples: samples[-1][0], default=[])
    now = prometheus.number("time()") or 0.0
    if not samples:
        raise NoData(
            f"{series} is empty at {prometheus.base_url}: nobody monitors the {monitor} of container {container!r}, "
            "start it (start_monitoring, the observe control, or `chaosorca monit start`)"
        )
    age, interval = now - samples[-1][0], scrape_interval(samples)
    if interval is None:
        raise NoData(f"{series} has one sample only: wait for a second scrape")
    if age > STALE_AFTER * interval:
        raise NoData(
            f"{series} has no sample for {age:.1f} s, over {STALE_AFTER} scrapes: monitoring was stopped, "
            f"container {container!r} has ended, or Prometheus cannot reach the agent"
        )
    if sum(at > now - window for at, _ in samples) < 2:
        raise NoData(f"{series} has less than two samples in the last {window:g} s: use a window of at least two scrapes")


def rate(prometheus: Prometheus, series: str, container: str, monitor: str, window: float) -> float:
    """Return what the selected series of a monitored container grow by in a second; 0 where there is none."""
    check_monitored(prometheus, container, monitor, window)
    return prometheus.number(total_rate(series, window)) or 0.0


def figure(prometheus: Prometheus, expression: str, container: str, monitor: str, window: float, what: str) -> float:
    """Return a number that is there only if there is something to measure.

    Arguments:
        expression: PromQL that gives at most one number.
        container, monitor, window: see `check_monitored`.
        what: why there may be none, for the error.

    Raises:
        NoData: the expression gave nothing, or no number.
    """
    check_monitored(prometheus, container, monitor, window)
    number = prometheus.number(expression)
    if number is None or isnan(number):
        raise NoData(f"{expression} gave no number for the last {window:g} s: {what}")
    return number


def ratio(prometheus: Prometheus, part: str, whole: str, container: str, monitor: str, window: float) -> float:
    """Return the share that the growth of one selection has of another's.

    Raises:
        NoData: the whole did not grow, so that there is no share.
    """
    check_monitored(prometheus, container, monitor, window)
    # One expression, so that both are of the same moment.
    share = prometheus.number(f"({total_rate(part, window)} or vector(0)) / {total_rate(whole, window)}")
    if share is None or isnan(share):
        raise NoData(f"{whole} did not grow in the last {window:g} s: a share of no request at all is no number")
    return share


def wait_for_scrapes(prometheus: Prometheus, containers: Iterable[str], scrapes: int, within: float = 60.0) -> None:
    """Wait until each container's monitoring has been scraped so many times from now on.

    Raises:
        PrometheusError: it was not within so many seconds.
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
                f"Prometheus at {prometheus.base_url} has not scraped the agent {scrapes} times in {within:g} s for "
                f"{', '.join(waiting)}: let it scrape the agent as job 'chaosorca', and every {within / 4:g} s or more often"
            )
        time.sleep(0.1)


def _scrapes_since(prometheus: Prometheus, container: str, began: float, within: float) -> int:
    found = prometheus.samples(selector("chaosorca_monitored", container=container), within)
    return max((sum(at >= began for at, _ in one.samples) for one in found), default=0)


def scrape_interval(samples: Samples) -> float | None:
    """The usual time between samples, in seconds; None for less than two."""
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(samples)]
    return median(gaps) if gaps else None
