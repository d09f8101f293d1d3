"""The C library of the agent's own process, for system calls that Python does not offer."""

from __future__ import annotations

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)


def last_error(doing: str) -> OSError:
    """Return the error of the last call into `libc` that failed.

    Arguments:
        doing: the first words of the message: the action that failed.
    """
    number = ctypes.get_errno()
    return OSError(number, f"{doing}: {os.strerror(number)}")
