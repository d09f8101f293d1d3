"""strace's `when` expression, which selects calls of a thread by their number.

An expression is `FIRST`, `FIRST+`, `FIRST+STEP`, `FIRST..LAST` or `FIRST..LAST+STEP` (see strace(1), "Tampering").
Calls are counted from 1, separately for each thread.
"""

from __future__ import annotations

import re

from chaosorca.model.errors import InvalidArgument

LARGEST = 65535
"""The largest number in an expression, because strace stores the numbers in 16 bits."""

_TEXT = re.compile(r"([0-9]{1,20})(?:\.\.([0-9]{1,20}))?(?:(\+)([0-9]{1,20})?)?")


def when_matches(text: str | None, call: int) -> bool:
    """Return whether an expression selects the call with this number. Without an expression, every call is selected."""
    first, last, step = when_bounds(text)
    return first <= call <= (last or call) and (call - first) % step == 0


def when_bounds(text: str | None) -> tuple[int, int, int]:
    """Return the first call, the last call (0 for no end) and the step of an expression.

    The expression must come from `check_when`.
    """
    match = _TEXT.fullmatch(text) if text else None
    if match is None:
        return 1, 0, 1
    first, last = int(match[1]), int(match[2] or 0)
    return first, last or (0 if match[3] else first), int(match[4] or 1)


def check_when(text: str) -> str:
    """Validate an expression, and return it without leading zeros and spaces.

    Raises:
        InvalidArgument: the text is not an expression, a number is outside 1 to 65535, or the last call is before the first call.
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None or (match[2] and match[3] and not match[4]):
        raise InvalidArgument(f"when {text!r} is not one of F, F+, F+S, F..L, F..L+S, as in '3', '3+', '1+3', '2..9+2'")
    first, last, plus, step = match[1], match[2], match[3], match[4]
    for number in filter(None, (first, last, step)):
        if not 1 <= int(number) <= LARGEST:
            raise InvalidArgument(f"when {text!r} has {number}, which is outside 1 to {LARGEST}: calls are counted from 1")
    if last and int(last) < int(first):
        raise InvalidArgument(f"when {text!r} ends at call {int(last)} before it begins at call {int(first)}: swap them")
    result = str(int(first))
    if last:
        result += f"..{int(last)}"
    if plus:
        result += f"+{int(step)}" if step else "+"
    return result
