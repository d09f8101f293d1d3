"""Durations as text with a unit: `250us`, `100ms`, `5s`, `2m`, `1h`."""

from __future__ import annotations

import re
from decimal import Decimal

from chaosorca.model.errors import InvalidArgument

_UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
_TEXT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(us|ms|s|m|h)")
_LONGEST = 366 * 24 * _UNITS["h"]


def parse_duration(value: object, what: str) -> int:
    """Return a duration in whole microseconds.

    Arguments:
        value: the text, as in `"100ms"`. A bare number is refused, because its unit is unclear.
        what: the argument's name, for the error message.

    Raises:
        InvalidArgument: the value has no unit or no number, is zero, has a fraction of a microsecond, or is longer than a year.
    """
    if isinstance(value, (int, float)) or (isinstance(value, str) and re.fullmatch(r"\s*[0-9.]+\s*", value)):
        raise InvalidArgument(f"{what} {value!r} has no unit: add one of us, ms, s, m, h, as in '100ms'")
    match = _TEXT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise InvalidArgument(f"{what} {value!r} is not a duration: write a number and one of us, ms, s, m, h, as in '100ms'")
    microseconds = Decimal(match[1]) * _UNITS[match[2]]
    if microseconds != int(microseconds):
        raise InvalidArgument(f"{what} {value!r} is finer than a microsecond: use whole microseconds")
    if microseconds <= 0:
        raise InvalidArgument(f"{what} {value!r} is zero: give a duration greater than zero")
    if microseconds > _LONGEST:
        raise InvalidArgument(f"{what} {value!r} is longer than a year: give a shorter one")
    return int(microseconds)


def parse_seconds(value: object, what: str) -> float:
    """Return a duration in seconds; see `parse_duration`."""
    return parse_duration(value, what) / 1_000_000


def format_duration(microseconds: int) -> str:
    """Return a duration as text, in the largest unit that divides it without a remainder."""
    for unit in ("h", "m", "s", "ms"):
        if microseconds and microseconds % _UNITS[unit] == 0:
            return f"{microseconds // _UNITS[unit]}{unit}"
    return f"{microseconds}us"
