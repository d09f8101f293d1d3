"""Numbers of things in messages: `1 process`, `2 processes`."""

from __future__ import annotations


def counted(number: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun.

    Arguments:
        number: the number.
        singular: the noun for one.
        plural: the noun for other numbers; default: the singular with an `s`.
    """
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
