"""Start and stop the monitoring of containers."""

from chaosorca.activity import activity
from chaosorca.engine.agent import ensure_agent, find_agent, retire_agent
from chaosorca.engine.client import connect
from chaosorca.engine.containers import select_containers
from chaosorca.exceptions import ContainerError, InvalidArgument
from chaosorca.model.values import as_bool

__all__ = ["start_monitoring", "stop_monitoring"]


@activity
def start_monitoring(
    container: str = None,
    label: str = None,
    syscalls: bool = True,
    http: bool = True,
    resources: bool = True,
    configuration: dict = None,
    secrets: dict = None,
) -> list:
    """
    Begin to monitor running containers from the outside. What is monitored already is kept, and added to.

    Arguments:
        container: the container's name, id or id's prefix.
        label: instead of a container, a label (key=value) that selects several.
        syscalls: count and time system calls.
        http: count and time HTTP/1.x requests.
        resources: processor, memory, network and storage figures.

    Returns:
        for each container {"name", "id", "monitors", "warnings", "running"}.

    Raises:
        ActivityFailed: no such container, it does not run or must not be touched, or the agent cannot watch it.
    """
    wanted = {"syscalls": syscalls, "http": http, "resources": resources}
    monitors = [name for name, value in wanted.items() if as_bool(value, name)]
    if not monitors:
        raise InvalidArgument("nothing is to be monitored: leave at least one of syscalls, http, resources true")
    client = connect(configuration)
    targets = select_containers(client, container, label)
    agent = ensure_agent(client, configuration)
    try:
        return [agent.ask("watch", container=target.to_json(), monitors=monitors) for target in targets]
    except BaseException:
        retire_agent(client)
        raise


@activity
def stop_monitoring(container: str = None, label: str = None, configuration: dict = None, secrets: dict = None) -> dict:
    """
    Stop monitoring containers; the agent goes when it has nothing left to do. Nobody monitoring them is success.

    Arguments:
        container: the container's name, id or id's prefix.
        label: instead of a container, a label (key=value) that selects several.

    Returns:
        {"stopped": the names of the containers that were monitored until now}.
    """
    client = connect(configuration)
    agent = find_agent(client)
    stopped: list[str] = []
    if agent is not None:
        watched = agent.ask("status")["targets"]
        try:
            names = [target.name for target in select_containers(client, container, label)]
        except ContainerError:  # it has ended, which is no reason to go on watching it
            names = [one["name"] for one in watched if container and (one["name"] == container or one["id"].startswith(container))]
        for name in names:
            stopped += agent.ask("unwatch", container=name)["stopped"]
    retire_agent(client)
    return {"stopped": stopped}
