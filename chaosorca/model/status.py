"""Which HTTP answers a probe asks for: `"200"`, `"4xx,5xx,none"`."""

from __future__ import annotations

import re

from chaosorca.model.errors import InvalidArgument


def status_regex(status: object) -> str:
    """Return the regular expression that a `code` label has to match.

    Arguments:
        status: codes, classes and `none` (never answered), separated by commas; a number is taken as one code.

    Raises:
        InvalidArgument: something in the list is none of these.
    """
    if isinstance(status, bool) or not isinstance(status, (int, str)):
        raise InvalidArgument(f"status {status!r} is no list of codes and classes: write it as in '200' or '4xx,5xx,none'")
    parts = []
    for part in str(status).split(","):
        text = part.strip().lower()
        if re.fullmatch(r"[1-9][0-9][0-9]|none", text):
            parts.append(text)
        elif re.fullmatch(r"[1-9]xx", text):
            parts.append(text[0] + "..")
        else:
            raise InvalidArgument(
                f"status {part.strip()!r} is no HTTP code, class or 'none': write it as in '200' or '4xx,5xx,none'"
            )
    return "|".join(parts)
