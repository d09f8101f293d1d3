"""Numbers and booleans that may arrive as text, as `--var` and the environment give them."""

from __future__ import annotations

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
    try:
        number = float(str(value)) if not isinstance(value, bool) else float("nan")
    except ValueError:
        raise InvalidArgument(f"{what} {value!r} is no number") from None
    if not least <= number <= most:
        raise InvalidArgument(f"{what} {value!r} is not a number from {least:g} to {most:g}")
    return number


def as_int(value: object, what: str, least: int, most: int) -> int:
    """Return a whole number given as one or as text, within bounds."""
    number = as_number(value, what, least, most)
    if number != int(number):
        raise InvalidArgument(f"{what} {value!r} is no whole number")
    return int(number)
