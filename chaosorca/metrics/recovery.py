"""Time to recover: the time from a fault's end until requests succeed as often as before the fault.

All functions work on the intervals between two scrapes. Each interval records how many requests ended and how many of them failed.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from chaosorca.exceptions import NoData
from chaosorca.metrics.measure import LOOK_BACK, STALE_AFTER, check_monitored, scrape_interval
from chaosorca.metrics.promql import selector
from chaosorca.metrics.query import Prometheus
from chaosorca.metrics.series import add, increases
from chaosorca.model.times import iso

BASELINE = 30.0
"""The steady state is measured in this many seconds before a fault. Faults separated by a shorter gap belong to one disturbance."""
STEADY_INTERVALS = 3
"""How many consecutive intervals with requests must be in the steady state. One good interval among bad ones is not a recovery."""
SIGNIFICANCE = 0.001
"""The significance level of the binomial test. Requests are not steady if so many failures or more are less probable than this."""
DETECTABLE = 0.2
"""The requests after a fault must be enough to reveal an increase of the failure ratio by this much."""
EXTRA_WAIT = 60.0
"""If the requests are steady but too few to be conclusive, wait this many seconds longer than the permitted time to recover."""
_POLL = 0.2
"""The shortest time in seconds between two queries."""

Span = tuple[float, float]


@dataclass(frozen=True)
class Interval:
    """The time between two scrapes.

    Attributes:
        since, until: the times of the two scrapes, in seconds since 1970.
        requests: how many requests ended in the interval; None if the container was not monitored.
        failed: how many of these requests failed.
    """

    since: float
    until: float
    requests: float | None
    failed: float = 0.0


@dataclass(frozen=True)
class Recovery:
    """A return to the steady state.

    Attributes:
        after: the time from the fault's end to the recovery, in seconds.
        requests: how many requests have ended since the recovery.
        conclusive: whether these requests are enough to reveal a higher failure ratio.
    """

    after: float
    requests: float
    conclusive: bool


def latest(faults: Sequence[Span]) -> list[Span]:
    """Return the faults of the last disturbance.

    Faults belong to one disturbance if the gaps between them are shorter than `BASELINE`.

    Arguments:
        faults: when each fault began and ended, in seconds since 1970.
    """
    begins = max(faults, key=lambda span: span[1])[0]
    while (earliest := min(begin for begin, end in faults if end > begins - BASELINE)) < begins:
        begins = earliest
    return [span for span in faults if span[1] > begins - BASELINE]


def failure_ratio(intervals: Sequence[Interval], until: float) -> float | None:
    """Return the ratio of failed requests to all requests before a time; None if no request ended."""
    requests, failed = total([one for one in intervals if one.until <= until])
    return failed / requests if requests else None


def is_steady(failed: float, requests: float, ratio: float) -> bool:
    """Return whether a number of failed requests agrees with the failure ratio of the steady state.

    This is a one-sided binomial test. The probability of at least this many failures must not be below `SIGNIFICANCE`.
    """
    if failed <= ratio * requests:
        return True
    if ratio <= 0:
        return False
    # Sum the probabilities of this number of failures and of each larger number. Compute each one from the previous one.
    log = math.lgamma(requests + 1) - math.lgamma(failed + 1) - math.lgamma(requests - failed + 1)
    probability = term = math.exp(log + failed * math.log(ratio) + (requests - failed) * math.log1p(-ratio))
    while failed < requests and term > probability * 1e-9:
        term *= (requests - failed) / (failed + 1) * ratio / (1 - ratio)
        failed += 1
        probability += term
    return probability >= SIGNIFICANCE


def is_conclusive(requests: float, ratio: float) -> bool:
    """Return whether this many requests would reveal an increase of the failure ratio by `DETECTABLE`.

    The increased ratio is at most 1. The test must still detect the increased ratio if the failures are two standard deviations
    fewer than expected. The power of the test is therefore about 98 %.
    """
    larger = min(1.0, ratio + DETECTABLE)
    least = requests * larger - 2 * math.sqrt(requests * larger * (1 - larger))
    return ratio >= 1 or not is_steady(math.ceil(least - 1e-6), requests, ratio)


def recovery(intervals: Sequence[Interval], ended: float, ratio: float) -> Recovery | None:
    """Find when requests returned to the steady state after a fault.

    A recovery is a run of at least `STEADY_INTERVALS` intervals with requests. Each interval of the run must be in the steady
    state, and so must the sum of all intervals of the run. Intervals without requests do not count. `STEADY_INTERVALS` consecutive
    intervals outside the steady state undo the recovery.

    Arguments:
        intervals: the intervals in order. Intervals before the fault's end are ignored.
        ended: when the fault ended, in seconds since 1970.
        ratio: the failure ratio of the steady state.

    Returns:
        the recovery; None if the last intervals are outside the steady state. The time to recover ends when the run's first
        interval begins. If the interval before the run had no requests, the time to recover ends when the run's first interval
        ends. The resolution is one interval, or two intervals if a status code is new (see `increases`).
    """
    run: list[Interval] = []
    found: Recovery | None = None
    began, silent, failing = ended, False, 0
    for one in intervals:
        if one.until <= ended:
            continue
        if not one.requests:
            silent = True
            if one.requests is None:
                run, found = [], found if found and found.conclusive else None
            continue
        if is_steady(one.failed, one.requests, ratio):
            requests, failed = total([*run, one])
            run = [*run, one] if is_steady(failed, requests, ratio) else [one]
            began = began if len(run) > 1 else one.until if silent else max(one.since, ended)
            failing = 0
        else:
            run, failing = [], failing + 1
        silent = False
        if failing >= STEADY_INTERVALS or not (found and found.conclusive):
            requests, _ = total(run)
            conclusive = len(run) >= STEADY_INTERVALS and is_conclusive(requests, ratio)
            found = Recovery(round(began - ended, 3), requests, conclusive) if run else None  # scrapes are timed in milliseconds
    return found


def total(intervals: Sequence[Interval]) -> tuple[float, float]:
    """Return how many requests ended in all given intervals, and how many of these requests failed."""
    return sum(one.requests or 0.0 for one in intervals), sum(one.failed for one in intervals)


def read_intervals(
    prometheus: Prometheus, container: str, requests: str, failed: str, since: float, until: float
) -> list[Interval]:
    """Read the intervals between the scrapes in a span of time.

    Arguments:
        prometheus: the server to query.
        container: the container's name.
        requests: a selector for the counters of all requests of the container.
        failed: a selector for the counters of the container's failed requests.
        since, until: the beginning and end of the span, in seconds since 1970.
    """
    span = until - since
    monitored = prometheus.samples(selector("chaosorca_monitored", container=container, monitor="http"), span, until)
    scrapes = sorted(sample for one in monitored for sample in one.samples)
    axis = [at for at, _ in scrapes]
    gap = STALE_AFTER * (scrape_interval(scrapes) or 1.0)
    nothing = increases(axis, [], gap)
    all_ended, all_failed = (
        add([nothing, *(increases(axis, one.samples, gap) for one in prometheus.samples(series, span, until))])
        for series in (requests, failed)
    )
    return [
        Interval(before, at, ended, failures or 0.0)
        for (before, at), ended, failures in zip(itertools.pairwise(axis), all_ended[1:], all_failed[1:], strict=True)
    ]


def time_to_recover(
    prometheus: Prometheus,
    container: str,
    requests: str,
    failed: str,
    fault: Span,
    within: float,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Wait until requests are back in the steady state. Return the time to recover, in seconds from the fault's end.

    Arguments:
        prometheus, container, requests, failed: see `read_intervals`.
        fault: when the fault began and ended, in seconds since 1970, by a clock that agrees with Prometheus's clock.
        within: the longest permitted time to recover, in seconds.
        sleep: a function that waits for a number of seconds.

    Raises:
        NoData: the container did not recover in time or was not monitored, or too few requests ended.
    """
    begins, ended = fault
    before = read_intervals(prometheus, container, requests, failed, begins - BASELINE, begins)
    ratio = failure_ratio(before, begins)
    if ratio is None:
        check_monitored(prometheus, container, "http", LOOK_BACK)
        raise NoData(
            f"{requests} did not grow in the {BASELINE:g} s before the fault on container {container!r}, which began at "
            f"{iso(begins)}: start monitoring and load earlier, because this time defines the steady state"
        )
    every = median(one.until - one.since for one in before)
    while True:
        now = prometheus.number("time()") or 0.0
        # Include some scrapes before the fault's end. The interval that contains the end is then complete.
        after = read_intervals(prometheus, container, requests, failed, ended - 5 * every, now)
        found = recovery(after, ended, ratio)
        in_time = found is not None and found.after <= within
        if found and found.conclusive and in_time:
            return found.after
        patience = within + (EXTRA_WAIT if in_time else 0.0) + (STEADY_INTERVALS + 1) * every
        if (found and found.conclusive) or now > ended + patience:
            break
        sleep(max(_POLL, every / 2))
    if found and found.conclusive:
        raise NoData(
            f"container {container!r} took {found.after:.3g} s to recover from its fault, more than the permitted {within:g} s"
        )
    check_monitored(prometheus, container, "http", LOOK_BACK)
    answered = [one for one in after if one.requests and one.until > ended]
    if not answered:
        raise NoData(
            f"{requests} did not grow after the fault's end at {iso(ended)}: "
            "keep the load running, because recovery is judged by requests"
        )
    if found and in_time:
        raise NoData(
            f"{requests} grew by only {found.requests:g} since {found.after:.3g} s after the end of the fault on container "
            f"{container!r}: these requests are in the steady state but too few to prove recovery, so increase the load"
        )
    number, failures = total(answered[-STEADY_INTERVALS:])
    raise NoData(
        f"container {container!r} has not recovered within {within:g} s from its fault's end at {iso(ended)}: "
        f"{failures / number:.1%} of the last {number:g} requests until {iso(answered[-1].until)} failed ({failed}), "
        f"compared with {ratio:.1%} before the fault"
    )
