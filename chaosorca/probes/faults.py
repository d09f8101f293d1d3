"""Faults, straight from the agent: no Prometheus is needed."""

from chaosorca.activity import activity
from chaosorca.exceptions import AgentError
from chaosorca.model.syscalls import check_any_syscall
from chaosorca.sources import known_faults

__all__ = ["fault_active", "faults_injected"]


@activity
def faults_injected(
    container: str,
    syscall: str = None,
    fault: str = None,
    configuration: dict = None,
    secrets: dict = None,
) -> int:
    """
    Count the system calls that the latest fault of a container has tampered with, whether it goes on or has ended.

    Arguments:
        container: the container's name, id or id's prefix.
        syscall: only this system call.
        fault: the fault of this id, as `start_fault` returned it, instead of the latest.

    Returns:
        calls; 0 for a fault that has not fired.

    Raises:
        ActivityFailed: no such fault was started on the container, as far as the agent knows.
    """
    if syscall is not None:
        check_any_syscall(syscall)
    known = [one for one in known_faults(container, configuration) if fault in (None, one.id)]
    if not known:
        what = f"fault {fault!r}" if fault else "fault"
        raise AgentError(f"no {what} was started on container {container!r} since the agent began: start one first")
    return sum(count for name, count in known[-1].injected.items() if syscall in (None, name))


@activity
def fault_active(container: str, configuration: dict = None, secrets: dict = None) -> bool:
    """
    Tell whether a container has an active fault.

    Arguments:
        container: the container's name, id or id's prefix.

    Returns:
        True while a fault is active.

    Raises:
        ActivityFailed: there is no such container.
    """
    return any(one.active for one in known_faults(container, configuration))
