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
    Start monitoring running containers from the outside. Monitors that already run are kept. A monitor that does not work for a
    container is left out with a warning. If no monitor works, the action fails.

    Arguments:
        container: the container's name, id or id's prefix.
        label: instead of a container, a label (key=value) that selects several running containers.
        syscalls: count and time system calls.
        http: count and time HTTP/1.x requests, including those inside TLS if the program uses OpenSSL's libssl.
        resources: measure the use of processor, memory, network and storage.

    Returns:
        for each container {"name", "id", "monitors", "warnings", "running", "new": whether it was not monitored before}.

    Raises:
        ActivityFailed: the container does not exist, does not run or is protected, or no monitor works for it.
    """
    wanted = {"syscalls": syscalls, "http": http, "resources": resources}
    monitors = [name for name, value in wanted.items() if as_bool(value, name)]
    if not monitors:
        raise InvalidArgument("no monitor is selected: leave at least one of syscalls, http, resources true")
    check_selection(container, label)
    client = connect(configuration)
    targets = select_containers(client, container, label)
    agent = ensure_agent(client, configuration)
    started: list[dict] = []
    try:
        for target in targets:
            started.append(agent.ask("start_monitoring", container=target.to_json(), monitors=monitors))
    except BaseException:
        with contextlib.suppress(OrcaError):
            for one in started:
                if one["new"]:
                    agent.ask("stop_monitoring", container=one["name"])
            retire_agent(client)
        raise
    for one in started:
        for warning in one["warnings"]:
            logger.warning("monitoring of %s: %s", one["name"], warning)
    return started


@activity
def stop_monitoring(container: str = None, label: str = None, configuration: dict = None, secrets: dict = None) -> dict:
    """
    Stop monitoring containers. If they are not monitored, the action succeeds. The agent is removed when it has nothing left to do.

    Arguments:
        container: the container's name, id or id's prefix.
        label: instead of a container, a label (key=value) that selects several running containers.

    Returns:
        {"stopped": the names of the containers whose monitoring has stopped}.
    """
    check_selection(container, label)
    client = connect(configuration)
    agent = find_agent(client)
    stopped: list[str] = []
    if agent is not None:
        names = {one["id"]: one["name"] for one in agent.ask("status")["targets"]}
        ids = selected_ids(client, container, label, [(name, one) for one, name in names.items()])
        for name in [names[one] for one in ids if one in names]:
            stopped += agent.ask("stop_monitoring", container=name)["stopped"]
    retire_agent(client)
    return {"stopped": stopped}
