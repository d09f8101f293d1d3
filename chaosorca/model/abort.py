"""The condition that ends a fault early, such as `error_ratio > 0.5 for 10s`.

    MEASURE[(OF)] COMPARISON BOUND [for DURATION]

- `error_ratio` is the share of requests whose status is in OF, a list of codes and classes. OF is `5xx,none` by default. BOUND is a
  number from 0 to 1.
- `request_rate` is the rate of requests whose status is in OF. Without OF, all requests count. BOUND is a number of requests per
  second.
- `latency` is a quantile of the latency. OF is the quantile, which is 0.95 by default. BOUND is a duration.

Each measure covers the last second. The fault ends when the condition has held throughout DURATION, which is 5s by default.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from chaosorca.model.duration import format_duration, parse_duration
from chaosorca.model.errors import InvalidArgument
from chaosorca.model.nearest import nearest
from chaosorca.model.status import status_regex
from chaosorca.model.values import as_number

MEASURES = ("error_ratio", "request_rate", "latency")
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_TEXT = re.compile(r"(\w+)\s*(?:\(([^)]*)\))?\s*(>=|<=|>|<)\s*(\S+)(?:\s+for\s+(\S+))?")
_MOST_REQUESTS = 10**9


@dataclass(frozen=True)
class AbortCondition:
    """A validated condition.

    Attributes:
        text: the condition in its canonical form.
        measure: one of `MEASURES`.
        status: a regular expression for the status codes that count. The measure `latency` ignores this expression.
        quantile: the quantile for the measure `latency`. The other measures ignore this number.
        comparison: `>`, `<`, `>=` or `<=`.
        bound: a ratio, requests/s or seconds, depending on the measure.
        seconds: how long the condition must hold.
    """

    text: str
    measure: str
    status: str
    quantile: float
    comparison: str
    bound: float
    seconds: float

    def is_met_by(self, value: float) -> bool:
        """Return whether a value of the measure meets the comparison with the bound."""
        return _COMPARISONS[self.comparison](value, self.bound)


def parse_abort_when(text: object) -> AbortCondition:
    """Parse a condition as a user wrote it.

    Raises:
        InvalidArgument: the text does not follow the grammar, or a part is invalid.
    """
    match = _TEXT.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise InvalidArgument(f"abort_when {text!r} is not a condition: write it as in 'error_ratio > 0.5 for 10s'")
    measure, of, comparison, limit, span = match.groups()
    if measure not in MEASURES:
        raise InvalidArgument(
            f"abort_when has no measure {measure!r}{nearest(measure, MEASURES)} (there are {', '.join(MEASURES)})"
        )
    duration = parse_duration(span or "5s", "abort_when's duration")
    status, quantile = ".*", 0.95
    if measure == "latency":
        quantile = as_number(of, "abort_when's quantile", 0, 1) if of else 0.95
        bound = parse_duration(limit, "abort_when's latency") / 1e6
    else:
        status = status_regex(of or "5xx,none") if of or measure == "error_ratio" else ".*"
        bound = as_number(limit, f"abort_when's {measure}", 0, 1 if measure == "error_ratio" else _MOST_REQUESTS)
    canonical = f"{measure}{f'({of})' if of else ''} {comparison} {limit} for {format_duration(duration)}"
    return AbortCondition(canonical, measure, status, quantile, comparison, bound, duration / 1e6)
