"""Measure the system calls of a container, as its programs experience them."""

from chaosorca.activity import activity
from chaosorca.metrics import measure, promql
from chaosorca.metrics.promql import selector
from chaosorca.model.duration import parse_seconds
from chaosorca.model.errno import check_errno
from chaosorca.model.syscall_table import check_any_syscall
from chaosorca.model.values import as_number
from chaosorca.sources import open_prometheus, series_name

__all__ = ["syscall_latency", "syscall_rate"]


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
    Measure how many system calls a container makes per second, including failed and injected calls.

    Arguments:
        container: the container's name, id or id's prefix.
        syscall: only this system call, by its full name.
        error: only calls that failed with this errno, by name.
        window: the time over which the rate is averaged, with a unit.

    Returns:
        calls/s; 0.0 if there was no such call.

    Raises:
        ActivityFailed: the container is not monitored, or its last sample is older than three scrapes.
    """
    labels = {}
    if syscall is not None:
        labels["syscall"] = check_any_syscall(syscall)
    if error is not None:
        labels["error"] = check_errno(error)
    seconds = parse_seconds(window, "window")
    name = series_name(container, configuration)
    series = selector("chaosorca_syscalls_total", container=name, **labels)
    return measure.rate(open_prometheus(configuration), series, name, "syscalls", seconds)


@activity
def syscall_latency(
    container: str,
    syscall: str,
    quantile: float = 0.95,
    window: str = "15s",
    configuration: dict = None,
    secrets: dict = None,
) -> float:
    """
    Measure how long a system call takes, including injected delays.

    Arguments:
        container: the container's name, id or id's prefix.
        syscall: the system call, by its full name.
        quantile: the quantile, from 0 to 1; Prometheus's histogram_quantile() interpolates it between powers of two.
        window: the time over which the latency is measured, with a unit.

    Returns:
        seconds.

    Raises:
        ActivityFailed: no such call ended, the container is not monitored, or its last sample is older than three scrapes.
    """
    q, seconds = as_number(quantile, "quantile", 0, 1), parse_seconds(window, "window")
    name = series_name(container, configuration)
    buckets = selector("chaosorca_syscall_duration_seconds_bucket", container=name, syscall=check_any_syscall(syscall))
    expression = promql.quantile(q, buckets, seconds)
    return measure.figure(open_prometheus(configuration), expression, name, "syscalls", seconds, "no such call ended in it")
