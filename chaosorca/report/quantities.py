"""Numbers in a readable format."""

from __future__ import annotations

import math

_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_SMALL = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def quantity(value: float, unit: str) -> str:
    """Return a number with its unit. Seconds and bytes get SI prefixes.

    Arguments:
        value: the number.
        unit: `s`, `B`, `B/s`, or any other unit, which gets no prefix.
    """
    if unit == "s":
        size, prefix = next(((size, prefix) for size, prefix in _SMALL if abs(value) >= size), (1.0, ""))
        return f"{_digits(value / size)} {prefix}s"
    if unit.startswith("B"):
        size, prefix = next(((size, prefix) for size, prefix in _LARGE if abs(value) >= size), (1.0, ""))
        return f"{_digits(value / size)} {prefix}{unit}"
    return f"{_digits(value)} {unit}".rstrip()


def ticks(most: float, number: int = 5) -> list[float]:
    """Return about `number` evenly spaced round values. The first value is 0, and the last value is at least `most`."""
    if not most > 0:
        return [0.0, 1.0]
    rough = most / number
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [index * step for index in range(math.ceil(most / step - 1e-9) + 1)]


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
