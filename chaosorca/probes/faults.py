"""Count the calls that faults have hit, and check for active faults. These probes ask the agent, so they need no Prometheus."""

from chaosorca.activity import activity
from chaosorca.exceptions import AgentError
from chaosorca.model.syscall_table import check_any_syscall
from chaosorca.sources import faults_on

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
    Count the system calls that the latest fault of a container has hit. This fault may be active or ended.

    Arguments:
        container: the container's name, id or id's prefix.
        syscall: the name of the only system call to count; default: all system calls of the fault.
        fault: the id of a fault, as returned by `start_fault`; default: the latest fault.

    Returns:
        the number of calls; 0 for a fault that has not fired.

    Raises:
        ActivityFailed: no such fault was started on the container since the agent started.
    """
    if syscall is not None:
        check_any_syscall(syscall)
    found = [one for one in faults_on(container, configuration) if fault in (None, one.id)]
    if not found:
        what = f"fault {fault!r}" if fault else "fault"
        raise AgentError(f"no {what} was started on container {container!r} since the agent started: start one first")
    return sum(count for name, count in found[-1].injected.items() if syscall in (None, name))


@activity
def fault_active(container: str, configuration: dict = None, secrets: dict = None) -> bool:
    """
    Check whether a container has an active fault.

    Arguments:
        container: the container's name, id or id's prefix.

    Returns:
        True while a fault is active.

    Raises:
        ActivityFailed: the container does not exist.
    """
    return any(one.active for one in faults_on(container, configuration))
