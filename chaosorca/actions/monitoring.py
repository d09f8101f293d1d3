"""Start and stop the monitoring of containers."""

import contextlib

from logzero import logger

from chaosorca.activity import activity
from chaosorca.engine.agent import ensure_agent, find_agent, retire_agent
from chaosorca.engine.client import connect
from chaosorca.engine.containers import check_selection, select_containers, selected_ids
from chaosorca.exceptions import InvalidArgument, OrcaError
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
    Begin to monitor running containers from the outside. What is monitored already is kept, and added to. A monitor that
    cannot watch a container is left out with a warning, as long as another one can.

    Arguments:
        container: the container's name, id or id's prefix.
        label: instead of a container, a label (key=value) that selects several.
        syscalls: count and time system calls.
        http: count and time HTTP/1.x requests, those inside TLS of programs that use OpenSSL's libssl too.
        resources: processor, memory, network and storage figures.

    Returns:
        for each container {"name", "id", "monitors", "warnings", "running", "new": whether nobody monitored it before}.

    Raises:
        ActivityFailed: no such container, it does not run or must not be touched, or the agent cannot watch it.
    """
    wanted = {"syscalls": syscalls, "http": http, "resources": resources}
    monitors = [name for name, value in wanted.items() if as_bool(value, name)]
    if not monitors:
        raise InvalidArgument("nothing is to be monitored: leave at least one of syscalls, http, resources true")
    check_selection(container, label)
    client = connect(configuration)
    targets = select_containers(client, container, label)
    agent = ensure_agent(client, configuration)
    watched: list[dict] = []
    try:
        for target in targets:
            watched.append(agent.ask("start_monitoring", container=target.to_json(), monitors=monitors))
    except BaseException:
        with contextlib.suppress(OrcaError):
            for one in watched:
                if one["new"]:
                    agent.ask("stop_monitoring", container=one["name"])
            retire_agent(client)
        raise
    for one in watched:
        for warning in one["warnings"]:
            logger.warning("monitoring of %s: %s", one["name"], warning)
    return watched


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
    check_selection(container, label)
    client = connect(configuration)
    agent = find_agent(client)
    stopped: list[str] = []
    if agent is not None:
        watched = {one["id"]: one["name"] for one in agent.ask("status")["targets"]}
        ids = selected_ids(client, container, label, [(name, one) for one, name in watched.items()])
        for name in [watched[one] for one in ids if one in watched]:
            stopped += agent.ask("stop_monitoring", container=name)["stopped"]
    retire_agent(client)
    return {"stopped": stopped}
