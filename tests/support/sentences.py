"""The rules for messages to users."""

from __future__ import annotations

import re


def is_a_sentence(message: str) -> bool:
    """Whether a message is one line for a user, and shows nothing of the program's internals."""
    return (
        len(message.splitlines()) == 1
        and message.isprintable()
        and not message.endswith(".")
        and not re.search(r"Traceback|Error\b|Exception|object at|<class|Decimal|re\.Match", message)
    )
