"""Error handling of the agent's endless loops."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

_log = logging.getLogger("chaosorca.agent")


@contextlib.contextmanager
def surviving(what: str) -> Iterator[None]:
    """Log an error of one round of a loop instead of ending the loop.

    Arguments:
        what: the round, for the log.
    """
    try:
        yield
    except Exception:
        _log.exception("keeping up: %s", what)
