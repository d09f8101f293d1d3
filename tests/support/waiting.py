"""Wait for a condition, with a deadline."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> float:
    """Wait until a condition holds. Return how many seconds it took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise AssertionError(f"the condition did not hold within {seconds} s")
        time.sleep(0.01)
    return time.monotonic() - start


def becomes(read: Callable[[], Any], expected: Any, seconds: float = 5.0) -> None:
    """Wait until a value is the expected one. Fail if it does not become so in time."""
    with contextlib.suppress(AssertionError):
        wait_for(lambda: read() == expected, seconds)
    assert read() == expected
