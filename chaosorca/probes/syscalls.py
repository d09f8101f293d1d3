"""System calls of a container, as its programs experience them."""

from chaosorca.activity import activity
from chaosorca.metrics import measure
from chaosorca.metrics.promql import selector
from chaosorca.model.duration import parse_seconds
from chaosorca.model.errno import check_errno
from chaosorca.model.syscalls import check_known
from chaosorca.sources import open_prometheus, series_name

__all__ = ["syscall_rate"]


@activity
def syscall_rate(
    container: str,
    syscall: str = None,
    error: str = None,
    window: str = "15s",
    configuration: dict = None,
    secrets: dict = None,
) -> float:
    """
    Measure how many system calls were made in a second, failed and injected ones included.

    Arguments:
        container: the container's name, id or id's prefix.
        syscall: only this system call, by its full name.
        error: only those that failed with this errno, by name.
        window: the time over which it is averaged, with a unit.

    Returns:
        calls/s; 0.0 if there was none.

    Raises:
        ActivityFailed: nobody monitors the container, or its last sample is older than three scrapes.
    """
    labels = {}
    if syscall is not None:
        labels["syscall"] = check_known(syscall)
    if error is not None:
        labels["error"] = check_errno(error)
    seconds = parse_seconds(window, "window")
    name = series_name(container, configuration)
    series = selector("chaosorca_syscalls_total", container=name, **labels)
    return measure.rate(open_prometheus(configuration), series, name, "syscalls", seconds)
