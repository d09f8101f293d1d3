"""The suggestion at the end of an error about a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `: did you mean 'a' or 'b'?` with the closest of `names`. Return an empty string if no name is close."""
    by_lower = {one.lower(): one for one in names}
    found = [by_lower[one] for one in difflib.get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.6)]
    return f": did you mean {' or '.join(map(repr, found))}?" if found else ""
