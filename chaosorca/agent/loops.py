"""Error handling of the agent's endless loops."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

_log = logging.getLogger("chaosorca.agent")


@contextlib.contextmanager
def surviving(what: str) -> Iterator[None]:
    """If one round of a loop raises an error, log the error and keep the loop running.

    Arguments:
        what: the name of the round in the log.
    """
    try:
        yield
    except Exception:
        _log.exception("keeping up: %s", what)
