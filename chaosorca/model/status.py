"""Lists of HTTP status codes and classes, such as `"200"` and `"4xx,5xx,none"`."""

from __future__ import annotations

import re

from chaosorca.model.errors import InvalidArgument


def status_regex(status: object) -> str:
    """Convert a list of statuses to a regular expression for the label `code`.

    Arguments:
        status: codes, classes and `none` (no answer), separated by commas. A single code may also be given as a number.

    Raises:
        InvalidArgument: an item of the list is not a code, a class or `none`.
    """
    if isinstance(status, bool) or not isinstance(status, (int, str)):
        raise InvalidArgument(f"status {status!r} is not a list of codes and classes: write it as in '200' or '4xx,5xx,none'")
    parts = []
    for part in str(status).split(","):
        text = part.strip().lower()
        if re.fullmatch(r"[1-5][0-9][0-9]|none", text):
            parts.append(text)
        elif re.fullmatch(r"[1-5]xx", text):
            parts.append(text[0] + "..")
        else:
            raise InvalidArgument(
                f"status {part.strip()!r} is not an HTTP code, a class or 'none': write it as in '200' or '4xx,5xx,none'"
            )
    return "|".join(parts)
