"""Numbers and booleans that may arrive as text, for example from `--var` or an environment variable."""

from __future__ import annotations

import re

from chaosorca.model.errors import InvalidArgument

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def as_bool(value: object, what: str) -> bool:
    """Convert `value`, a boolean or text, to a boolean.

    Raises:
        InvalidArgument: the value is not a boolean.
    """
    if isinstance(value, bool):
        return value
    if str(value).lower() in _BOOLEANS:
        return _BOOLEANS[str(value).lower()]
    raise InvalidArgument(f"{what} {value!r} is not a boolean: give true or false")


def as_number(value: object, what: str, least: float, most: float) -> float:
    """Convert `value`, a number or text, to a number from `least` to `most`.

    Raises:
        InvalidArgument: the value is not a number, or is out of bounds.
    """
    text = "" if isinstance(value, bool) else str(value)
    try:
        number = float(text if text.isascii() and "_" not in text else "")  # float() also accepts underscores and non-ASCII digits
    except ValueError:
        raise InvalidArgument(f"{what} {value!r} is not a number") from None
    if not least <= number <= most:
        raise InvalidArgument(f"{what} {value!r} is not between {least} and {most}")
    return number


def as_int(value: object, what: str, least: int, most: int) -> int:
    """Convert `value`, a number or text, to a whole number from `least` to `most`.

    Raises:
        InvalidArgument: the value is not a whole number, or is out of bounds.
    """
    if isinstance(value, bool) or not re.fullmatch(r"\s*[-+]?[0-9]{1,40}(\.0+)?\s*", str(value)):
        as_number(value, what, least, most)  # raises its own error if the value is not a number
        raise InvalidArgument(f"{what} {value!r} is not a whole number")
    number = int(str(value).split(".")[0])  # a float would round large numbers
    if not least <= number <= most:
        raise InvalidArgument(f"{what} {value!r} is not between {least} and {most}")
    return number
