"""How long a service takes to come back: when, after a fault, requests end as they did before it.

Everything is told by the intervals between two scrapes: how many requests ended in one, and how many of them went wrong.
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
from chaosorca.metrics.series import add, growth
from chaosorca.model.times import iso

BEFORE = 30.0
"""Seconds before a fault that tell what is normal; faults that follow one another sooner are one disturbance."""
STEADY = 3
"""Intervals with requests that have to be normal in a row: a good one among bad ones is no recovery."""
UNLIKELY = 0.001
"""A number of requests gone wrong that chance brings less often than this is not normal."""
NOTICED = 0.2
"""How much larger than normal a share is that has to be noticed before a service counts as recovered."""
MORE = 60.0
"""Seconds more that are waited for enough requests, where all that have ended are normal."""
_POLL = 0.2

Span = tuple[float, float]


@dataclass(frozen=True)
class Interval:
    """Between two scrapes: how many requests ended (None: nobody was looking), and how many of them went wrong."""

    since: float
    until: float
    requests: float | None
    wrong: float = 0.0


@dataclass(frozen=True)
class Recovery:
    """How many seconds after a fault requests ended normally, how many have, and whether those are enough to tell."""

    after: float
    requests: float
    proved: bool


def latest(faults: Sequence[Span]) -> list[Span]:
    """The fault that ended last, and all that it is one disturbance with, by when each began and ended."""
    begins = max(faults, key=lambda span: span[1])[0]
    while (earliest := min(begin for begin, end in faults if end > begins - BEFORE)) < begins:
        begins = earliest
    return [span for span in faults if span[1] > begins - BEFORE]


def normal_share(intervals: Sequence[Interval], begins: float) -> float | None:
    """The share of requests that went wrong before a time; None if none ended."""
    requests, wrong = total([one for one in intervals if one.until <= begins])
    return wrong / requests if requests else None


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


def can_tell(requests: float, share: float) -> bool:
    """Whether so many requests are enough to notice a share that is larger by `NOTICED` (or is 1), in all but 2 of 100 cases.

    The number that go wrong then is less than two standard deviations below its mean; that has not to be normal.
    """
    larger = min(1.0, share + NOTICED)
    least = requests * larger - 2 * math.sqrt(requests * larger * (1 - larger))
    return share >= 1 or not is_normal(math.ceil(least - 1e-6), requests, share)


def recovery(intervals: Sequence[Interval], ended: float, normal: float) -> Recovery | None:
    """Find when requests have ended normally after a fault.

    It is so from the first of at least `STEADY` intervals with requests that are normal, each and together. Silence proves nothing,
    and as many intervals in a row that are not normal undo it.

    Arguments:
        intervals: in order; those before the end do not matter.
        ended: when the fault ended, in seconds since 1970.
        normal: the share that goes wrong normally.

    Returns:
        the time to the beginning of the first of these intervals, or to its end if there were no requests before it; None if the
        last ones are not normal. Within an interval nothing is known, and a status that is new is seen an interval late (see
        `growth`).
    """
    run: list[Interval] = []
    found: Recovery | None = None
    began, silent, wrong_ones = ended, False, 0
    for one in intervals:
        if one.until <= ended:
            continue
        if not one.requests:
            silent = True
            if one.requests is None:
                run, found = [], found if found and found.proved else None
            continue
        if is_normal(one.wrong, one.requests, normal):
            requests, wrong = total([*run, one])
            run = [*run, one] if is_normal(wrong, requests, normal) else [one]
            began = began if len(run) > 1 else one.until if silent else max(one.since, ended)
            wrong_ones = 0
        else:
            run, wrong_ones = [], wrong_ones + 1
        silent = False
        if wrong_ones >= STEADY or not (found and found.proved):
            requests, _ = total(run)
            proved = len(run) >= STEADY and can_tell(requests, normal)
            found = Recovery(round(began - ended, 3), requests, proved) if run else None  # scrapes are stamped to the millisecond
    return found


def total(intervals: Sequence[Interval]) -> tuple[float, float]:
    """How many requests ended, and how many of them went wrong."""
    return sum(one.requests or 0.0 for one in intervals), sum(one.wrong for one in intervals)


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
    fault: Span,
    within: float,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Return how long after a fault requests ended again as they did before it, in seconds; wait until that is seen.

    Arguments:
        prometheus, container, requests, part: see `read_intervals`.
        fault: when it began and ended, in seconds since 1970, by a clock that agrees with Prometheus's.
        within: seconds from the fault's end that it may take.
        sleep: waits for so many seconds.

    Raises:
        NoData: it was not so within that time, or it cannot be told, because nobody monitored the container or no request ended.
    """
    begins, ended = fault
    before = read_intervals(prometheus, container, requests, part, begins - BEFORE, begins)
    normal = normal_share(before, begins)
    if normal is None:
        check_monitored(prometheus, container, "http", LOOK_BACK)
        raise NoData(
            f"{requests} did not grow in the {BEFORE:g} s before the fault on container {container!r}, which began at "
            f"{iso(begins)}: have it monitored and under load before the fault begins, so that it is known what is normal"
        )
    every = median(one.until - one.since for one in before)
    while True:
        now = prometheus.number("time()") or 0.0
        # From some scrapes before the end on, so that what grew across it is known.
        after = read_intervals(prometheus, container, requests, part, ended - 5 * every, now)
        found = recovery(after, ended, normal)
        in_time = found is not None and found.after <= within
        if found and found.proved and in_time:
            return found.after
        patience = within + (MORE if in_time else 0.0) + (STEADY + 1) * every
        if (found and found.proved) or now > ended + patience:
            break
        sleep(max(_POLL, every / 2))
    if found and found.proved:
        raise NoData(f"container {container!r} took {found.after:.3g} s to recover from its fault, which is more than {within:g} s")
    check_monitored(prometheus, container, "http", LOOK_BACK)
    answered = [one for one in after if one.requests and one.until > ended]
    if not answered:
        raise NoData(f"{requests} did not grow after the fault's end at {iso(ended)}: nothing that could recover was asked for")
    if found and in_time:
        raise NoData(
            f"{requests} grew by {found.requests:g} only since {found.after:.3g} s after the fault's end: all is as before the "
            f"fault on container {container!r}, but so few requests cannot tell, so have it under more load"
        )
    number, wrong = total(answered[-STEADY:])
    raise NoData(
        f"container {container!r} has not recovered within {within:g} s from its fault's end at {iso(ended)}: "
        f"{wrong / number:.1%} of the last {number:g} requests, until {iso(answered[-1].until)}, went wrong ({part}), "
        f"and {normal:.1%} did before it"
    )
