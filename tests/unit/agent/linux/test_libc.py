"""Errors of the C library."""

from __future__ import annotations

import errno

from chaosorca.agent.linux.libc import last_error, libc


def test_an_error_names_what_was_tried() -> None:
    assert libc.close(-1) == -1
    error = last_error("closing nothing")
    assert (error.errno, error.strerror) == (errno.EBADF, "closing nothing: Bad file descriptor")
