"""A container to which faults and monitors may be attached. It is built from the output of `docker inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chaosorca.model.contract import ROLE_LABEL
from chaosorca.model.errors import ContainerError

PROTECTED_LABEL = "chaosorca.protected"


@dataclass(frozen=True)
class Container:
    """A running container. `pid` is the process id of its first process, in the pid namespace of the engine's host."""

    name: str
    id: str
    pid: int
    host_network: bool
    shared_network: bool

    def to_json(self) -> dict[str, Any]:
        """Return the container as the agent receives it."""
        return dict(self.__dict__)


def running_container(inspected: Mapping[str, Any]) -> Container:
    """Convert the output of `docker inspect` to a container.

    Raises:
        ContainerError: the container belongs to chaosorca, is protected, is paused, or does not run.
    """
    name, state = inspected["Name"].lstrip("/"), inspected["State"]
    labels = inspected["Config"].get("Labels") or {}
    if ROLE_LABEL in labels:
        raise ContainerError(f"container {name!r} is one of chaosorca's own: choose another")
    if str(labels.get(PROTECTED_LABEL, "")).lower() == "true":
        raise ContainerError(f"container {name!r} is protected by its label {PROTECTED_LABEL}=true: choose another")
    if state.get("Paused"):
        raise ContainerError(f"container {name!r} is paused: unpause it with `docker unpause {name}`")
    if not state.get("Running") or state.get("Restarting"):
        raise ContainerError(f"container {name!r} is not running ({state['Status']}): start it with `docker start {name}`")
    network = str(inspected["HostConfig"].get("NetworkMode"))
    return Container(name, inspected["Id"], int(state["Pid"]), network == "host", network.startswith("container:"))
