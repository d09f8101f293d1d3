"""The standard signals of Linux, from 1 to 31. Their numbers are the same on x86-64 and arm64 (signal(7))."""

from __future__ import annotations

import re

from chaosorca.model.errors import InvalidArgument
from chaosorca.model.nearest import nearest

SIGNALS = (
    *("SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGUSR1", "SIGSEGV"),
    *("SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"),
    *("SIGURG", "SIGXCPU", "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR", "SIGSYS"),
)
STOPPING = ("SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU")
"""The signals that stop a process until it gets SIGCONT."""

_ALIASES = {"SIGPOLL": "SIGIO", "SIGIOT": "SIGABRT", "SIGCLD": "SIGCHLD"}


def signal_number(name: str) -> int:
    """Return the number of a signal. The name must come from `check_signal`."""
    return SIGNALS.index(name) + 1


def check_signal(name: object) -> str:
    """Return the canonical name of a signal. The given name may be in upper or lower case, with or without `SIG`.

    Raises:
        InvalidArgument: there is no such signal. The message suggests the nearest names.
    """
    if not isinstance(name, str):
        raise InvalidArgument(f"signal {name!r} is not the name of a signal: write it as in 'SIGUSR1'")
    upper = name.strip().upper()
    if re.fullmatch("[0-9]{1,9}", upper):
        meant = SIGNALS[int(upper) - 1 : int(upper)] if upper != "0" else ()
        raise InvalidArgument(f"signal {name!r} is a number: give a name, as in {(*meant, 'SIGUSR1')[0]!r}")
    upper = upper if upper.startswith("SIG") else f"SIG{upper}"
    upper = _ALIASES.get(upper, upper)
    if upper.startswith("SIGRT"):
        raise InvalidArgument(f"signal {name!r} is a real-time signal: give a standard one, as in 'SIGUSR1'")
    if upper not in SIGNALS:
        raise InvalidArgument(f"signal {name!r} does not exist{nearest(upper, SIGNALS)}")
    return upper
