"""Numbers and booleans that may arrive as text, as `--var` and the environment give them."""

from __future__ import annotations

import re

from chaosorca.model.errors import InvalidArgument

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def as_bool(value: object, what: str) -> bool:
    """Return a boolean given as one or as text."""
    if isinstance(value, bool):
        return value
    if str(value).lower() in _BOOLEANS:
        return _BOOLEANS[str(value).lower()]
    raise InvalidArgument(f"{what} {value!r} is neither true nor false")


def as_number(value: object, what: str, least: float, most: float) -> float:
    """Return a number given as one or as text, within bounds."""
    text = str(value) if not isinstance(value, bool) else "nan"
    try:
        number = float(text if text.isascii() and "_" not in text else "")  # those are Python's own idea of a number
    except ValueError:
        raise InvalidArgument(f"{what} {value!r} is no number") from None
    if not least <= number <= most:
        raise InvalidArgument(f"{what} {value!r} is not a number from {least} to {most}")
    return number


def as_int(value: object, what: str, least: int, most: int) -> int:
    """Return a whole number given as one or as text, within bounds."""
    if isinstance(value, bool) or not re.fullmatch(r"\s*[-+]?[0-9]{1,40}(\.0+)?\s*", str(value)):
        as_number(value, what, least, most)  # says what else is wrong with it
        raise InvalidArgument(f"{what} {value!r} is no whole number")
    number = int(str(value).split(".")[0])  # not by way of a float, which would round large ones
    if not least <= number <= most:
        raise InvalidArgument(f"{what} {value!r} is not a number from {least} to {most}")
    return number
