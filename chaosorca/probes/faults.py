"""Faults, straight from the agent: no Prometheus is needed."""

from chaosorca.activity import activity
from chaosorca.engine.agent import find_agent
from chaosorca.engine.client import connect
from chaosorca.engine.containers import name_and_id
from chaosorca.exceptions import AgentError, ContainerError
from chaosorca.model.syscalls import check_known

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
        check_known(syscall)
    known = [one for one in _faults(container, configuration) if fault in (None, one["fault"])]
    if not known:
        what = f"fault {fault!r}" if fault else "fault"
        raise AgentError(f"no {what} was started on container {container!r} since the agent began: start one first")
    injected = known[-1]["injected"]
    return sum(count for name, count in injected.items() if syscall in (None, name))


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
    return any(one["active"] for one in _faults(container, configuration))


def _faults(container: str, configuration: dict | None) -> list[dict]:
    client = connect(configuration)
    agent = find_agent(client)
    faults = agent.ask("status")["faults"] if agent else []
    found = name_and_id(client, container, [(one["container"], one["container_id"]) for one in reversed(faults)])
    if found is None:
        raise ContainerError(f"container {container!r} does not exist, and no fault on it is known")
    return [one for one in faults if one["container_id"] == found[1]]
