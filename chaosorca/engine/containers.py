"""Find the containers that a user names, and refuse containers that chaosorca must not touch."""

from __future__ import annotations

from collections.abc import Iterable

import docker
import docker.errors
from docker.models.containers import Container as DockerContainer

from chaosorca.engine.client import engine_errors
from chaosorca.exceptions import ContainerError, EngineError, InvalidArgument
from chaosorca.model.container import Container as Container
from chaosorca.model.container import running_container
from chaosorca.model.contract import ROLE_LABEL
from chaosorca.model.nearest import nearest


def find_container(client: docker.DockerClient, reference: str) -> Container:
    """Return the running container that has the given name, id or id prefix.

    Raises:
        InvalidArgument: the reference is not text, or is empty.
        ContainerError: the container does not exist, does not run, is paused, belongs to chaosorca or is protected.
    """
    if not isinstance(reference, str) or not reference.strip():
        raise InvalidArgument(f"container {reference!r} is not a name: give a container's name or id")
    with engine_errors(f"looking for container {reference!r}"):
        try:
            found = client.containers.get(reference)
        except docker.errors.NotFound:
            names = [container.name for container in client.containers.list(all=True, ignore_removed=True)]
            raise ContainerError(f"container {reference!r} does not exist{nearest(reference, names)}") from None
    return running_container(found.attrs)


def name_and_id(client: docker.DockerClient, reference: str, removed: Iterable[tuple[str, str]] = ()) -> tuple[str, str] | None:
    """Resolve a name, an id or an id prefix to a container in any state.

    Arguments:
        client: the engine.
        reference: the name, id or id prefix.
        removed: names and ids of further containers to search. The engine may have removed these containers.

    Returns:
        the container's name and id; None if there is no such container.
    """
    with engine_errors(f"looking for container {reference!r}"):
        try:
            found = client.containers.get(reference)
            return str(found.name), str(found.id)
        except docker.errors.NotFound:
            pass
    candidates = list(removed)
    by_name = [one for one in candidates if one[0] == reference.lstrip("/")]
    return next(iter(by_name or [one for one in candidates if one[1].startswith(reference)]), None)


def selected_ids(
    client: docker.DockerClient, container: str | None, label: str | None, removed: Iterable[tuple[str, str]]
) -> list[str]:
    """Return the ids of all containers that have the given name or label, in any state.

    Rollbacks use this function, so a missing container is not an error.

    Arguments:
        client: the engine.
        container: the name, id or id prefix of a container; None if a label is given.
        label: a label (`key=value`); None if a container is given.
        removed: names and ids of further containers that a name may select. The engine may have removed these containers.

    Raises:
        InvalidArgument: neither or both of container and label are given, or the label is not valid.
    """
    check_selection(container, label)
    if container is None:
        with engine_errors(f"looking for containers with label {label!r}"):
            found = client.containers.list(all=True, filters={"label": label}, ignore_removed=True)
        return [str(one.id) for one in sorted(found, key=lambda one: str(one.name))]
    removed = list(removed)
    found = name_and_id(client, container, removed)
    # Include earlier containers with this name. Faults of a re-created container may be recorded under an earlier id.
    return list(dict.fromkeys([found[1], *(one for name, one in removed if name == found[0])])) if found else []


def select_containers(client: docker.DockerClient, container: str | None, label: str | None) -> list[Container]:
    """Return the running container that has the given name, or all running containers that have the given label (`key=value`).

    Raises:
        InvalidArgument: neither or both of container and label are given, or the label is not valid.
        ContainerError: there is no such container, or chaosorca must not touch one of the containers.
    """
    check_selection(container, label)
    if container is not None:
        return [find_container(client, container)]
    with engine_errors(f"looking for containers with label {label!r}"):
        found = client.containers.list(filters={"label": label}, ignore_removed=True)
    if not found:
        raise ContainerError(f"no running container has the label {label!r}: check it with `docker ps --filter label={label}`")
    return [running_container(one.attrs) for one in sorted(found, key=lambda one: one.name)]


def own_container(client: docker.DockerClient, name: str, role: str) -> DockerContainer | None:
    """Return chaosorca's own container with this name and role, in any state. Return None if it does not exist.

    Raises:
        EngineError: a container that does not belong to chaosorca has this name.
    """
    with engine_errors(f"looking for container {name!r}"):
        try:
            found = client.containers.get(name)
        except docker.errors.NotFound:
            return None
    if found.labels.get(ROLE_LABEL) != role:
        raise EngineError(f"container {name!r} does not belong to chaosorca: rename it, because chaosorca needs this name")
    return found


def count_processes(client: docker.DockerClient, container: Container) -> int:
    """Return how many processes `docker top` shows for a container."""
    with engine_errors(f"listing the processes of container {container.name!r}"):
        return len(client.api.top(container.id)["Processes"])


def check_selection(container: str | None, label: str | None) -> None:
    """Check that exactly one of container and label is given.

    Raises:
        InvalidArgument: neither or both of container and label are given, or the label is not valid.
    """
    if (container is None) == (label is None):
        raise InvalidArgument("give exactly one of container and label")
    if label is not None:
        check_label(label)


def check_label(label: object) -> str:
    """Check the format of a label that selects containers, and return the label.

    Raises:
        InvalidArgument: the label is not written as key=value.
    """
    if not isinstance(label, str) or not label.partition("=")[0] or not label.partition("=")[2]:
        raise InvalidArgument(f"label {label!r} is not written as key=value")
    return label
