"""A Perl program that waits at a chosen place until a test resumes the program."""

from __future__ import annotations

import signal
from pathlib import Path

from docker.models.containers import Container

from tests.support.waiting import wait_for

HOLD = "$SIG{USR2} = sub { $go = 1 }; select(undef, undef, undef, 0.05) until $go;"
"""Perl code that waits for `resume`."""


def resume(container: Container) -> None:
    """Resume the program of a container, which waits at `HOLD`."""
    container.reload()
    status = Path(f"/proc/{container.attrs['State']['Pid']}/status")

    def has_handler() -> bool:
        caught = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        return bool(int(caught, 16) >> signal.SIGUSR2 - 1 & 1)

    wait_for(has_handler)
    container.kill("SIGUSR2")
