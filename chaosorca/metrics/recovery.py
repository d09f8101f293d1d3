"""How long a service takes to come back: when, after a fault, requests end as they did before it.

Everything is told by the intervals between two scrapes: how many requests ended in one, and how many of them went wrong.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chaosorca.exceptions import NoData
from chaosorca.metrics.client import Prometheus
from chaosorca.metrics.measure import LOOK_BACK, STALE_AFTER, check_monitored, scrape_interval
from chaosorca.metrics.promql import selector
from chaosorca.metrics.series import add, growth
from chaosorca.metrics.tables import iso

BEFORE = 30.0
"""Seconds before a fault that tell what is normal."""
STEADY = 3
"""Intervals in a row that have to be normal: a good one among bad ones is no recovery."""
UNLIKELY = 0.001
"""A number of requests gone wrong that chance brings less often than this is not normal."""
_AGAIN_AFTER = 0.2

Span = tuple[float, float]


@dataclass(frozen=True)
class Interval:
    """Between two scrapes: how many requests ended (None: nobody was looking), and how many of them went wrong."""

    since: float
    until: float
    requests: float | None
    wrong: float = 0.0


def disturbance(faults: Sequence[Span]) -> Span:
    """The beginning and the end of what the last of some faults belongs to: itself, and all that overlap."""
    begins, ends = max(faults, key=lambda span: span[1])
    while (earliest := min(begin for begin, end in faults if end >= begins)) < begins:
        begins = earliest
    return begins, ends


def normal_share(intervals: Sequence[Interval], begins: float) -> float | None:
    """The share of requests that went wrong before a time; None if none ended."""
    before = [one for one in intervals if one.requests and one.until <= begins]
    requests = sum(one.requests or 0.0 for one in before)
    return sum(one.wrong for one in before) / requests if requests else None


def is_normal(wrong: float, requests: float, share: float) -> bool:
    """Whether so many requests go wrong by chance where a share of them does: the one-sided binomial test, at `UNLIKELY`."""
    if wrong <= share * requests:
        return True
    if share <= 0:
        return False
    # The probability of exactly so many, and then of each more as a multiple of the one before.
    log = math.lgamma(requests + 1) - math.lgamma(wrong + 1) - math.lgamma(requests - wrong + 1)
    probability = term = math.exp(log + wrong * math.log(share) + (requests - wrong) * math.log1p(-share))
    while wrong < requests and term > probability * 1e-9:
        term *= (requests - wrong) / (wrong + 1) * share / (1 - share)
        wrong += 1
        probability += term
    return probability >= UNLIKELY


def recovered_after(intervals: Sequence[Interval], ended: float, normal: float) -> float | None:
    """Seconds from the end of a fault until requests end normally, and go on to.

    Arguments:
        intervals: in order; those before the end do not matter.
        ended: when the fault ended, in seconds since 1970.
        normal: the share that goes wrong normally.

    Returns:
        the time to the beginning of the first interval in which requests ended as `is_normal`, if that stayed so over
        `STEADY` intervals; None if that has not been seen. It is never less than it really took, and up to an interval more, or two
        where a status is new (see `growth`).
    """
    well: Interval | None = None
    steady = 0
    for one in intervals:
        if one.until <= ended:
            continue
        if one.requests is None or not is_normal(one.wrong, one.requests, normal):
            well, steady = None, 0
        elif one.requests or well:
            well, steady = well or one, steady + 1
        if well and steady >= STEADY:
            return round(max(0.0, well.since - ended), 3)  # scrapes are stamped to the millisecond
    return None


def read_intervals(prometheus: Prometheus, container: str, requests: str, part: str, since: float, until: float) -> list[Interval]:
    """Read the intervals of a time.

    Arguments:
        prometheus: where to ask.
        container: the container's name.
        requests, part: selectors of the counters of all its requests, and of those that are asked for.
        since, until: the time, in seconds since 1970.
    """
    span = until - since
    monitored = prometheus.samples(selector("chaosorca_monitored", container=container, monitor="http"), span, until)
    scrapes = sorted(sample for one in monitored for sample in one.samples)
    axis = [at for at, _ in scrapes]
    gap = STALE_AFTER * (scrape_interval(scrapes) or 1.0)
    nothing = growth(axis, [], gap)
    whole, those = (
        add([nothing, *(growth(axis, one.samples, gap) for one in prometheus.samples(series, span, until))])
        for series in (requests, part)
    )
    return [
        Interval(before, at, ended, of_those or 0.0)
        for (before, at), ended, of_those in zip(itertools.pairwise(axis), whole[1:], those[1:], strict=True)
    ]


def time_to_recover(
    prometheus: Prometheus,
    container: str,
    requests: str,
    part: str,
    faults: Sequence[Span],
    within: float,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Return how long after the last fault requests ended again as they did before it, in seconds; wait until that is seen.

    Arguments:
        prometheus, container, requests, part: see `read_intervals`.
        faults: when the faults of the container began and ended, in seconds since 1970.
        within: seconds from the fault's end that it may take.
        sleep: waits for so many seconds.

    Raises:
        NoData: it was not so within that time, or it cannot be told, because nobody monitored the container or no request ended.
    """
    begins, ended = disturbance(faults)
    while True:
        now = prometheus.number("time()") or 0.0
        intervals = read_intervals(prometheus, container, requests, part, begins - BEFORE, now)
        normal = normal_share(intervals, begins)
        if normal is None:
            check_monitored(prometheus, container, "http", LOOK_BACK)
            raise NoData(
                f"{requests} did not grow in the {BEFORE:g} s before the fault on container {container!r}, which began at "
                f"{iso(begins)}: have it monitored and under load before the fault begins, so that it is known what is normal"
            )
        took = recovered_after(intervals, ended, normal)
        if took is not None and took <= within:
            return took
        every = max((one.until - one.since for one in intervals[-STEADY:]), default=1.0)
        if took is not None or now > ended + within + (STEADY + 1) * every:
            break
        sleep(_AGAIN_AFTER)
    check_monitored(prometheus, container, "http", LOOK_BACK)
    if took is not None:
        raise NoData(f"container {container!r} took {took:.3g} s to recover from its fault, which is more than {within:g} s")
    last = next((one for one in reversed(intervals) if one.requests and one.until > ended), None)
    if last is None:
        raise NoData(f"{requests} did not grow after the fault's end at {iso(ended)}: nothing that could recover was asked for")
    raise NoData(
        f"container {container!r} has not recovered within {within:g} s from its fault's end at {iso(ended)}: "
        f"{part} grew by {last.wrong / (last.requests or 1):.1%} of {requests} at last, and by {normal:.1%} before the fault"
    )
