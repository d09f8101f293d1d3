"""Finding the containers that a user means, and refusing those that must not be touched."""

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
    """Find the running container of a name, an id or an id's prefix.

    Raises:
        ContainerError: it does not exist, does not run, is paused, is one of ours, or is protected.
    """
    if not isinstance(reference, str) or not reference.strip():
        raise InvalidArgument(f"container {reference!r} is no name: give a container's name or id")
    with engine_errors(f"looking for container {reference!r}"):
        try:
            found = client.containers.get(reference)
        except docker.errors.NotFound:
            names = [container.name for container in client.containers.list(all=True, ignore_removed=True)]
            raise ContainerError(f"container {reference!r} does not exist{nearest(reference, names)}") from None
    return running_container(found.attrs)


def name_and_id(client: docker.DockerClient, reference: str, known: Iterable[tuple[str, str]] = ()) -> tuple[str, str] | None:
    """Tell which container is meant by a name, an id or an id's prefix, whatever its state.

    Arguments:
        client: the engine.
        reference: the name or id.
        known: names and ids of further containers, which the engine may not have any more.

    Returns:
        its name and id, None if there is no such container.
    """
    with engine_errors(f"looking for container {reference!r}"):
        try:
            found = client.containers.get(reference)
            return str(found.name), str(found.id)
        except docker.errors.NotFound:
            pass
    candidates = list(known)
    by_name = [one for one in candidates if one[0] == reference.lstrip("/")]
    return next(iter(by_name or [one for one in candidates if one[1].startswith(reference)]), None)


def selected_ids(
    client: docker.DockerClient, container: str | None, label: str | None, known: Iterable[tuple[str, str]]
) -> list[str]:
    """The ids of the container of a name, or of all with a label, whatever their state: of one that was removed if it is `known`.

    For what is to be undone, where there need not be any container. Arguments are those of `select_containers` and `name_and_id`.
    """
    check_selection(container, label)
    if container is None:
        with engine_errors(f"looking for containers with label {label!r}"):
            found = client.containers.list(all=True, filters={"label": label}, ignore_removed=True)
        return [str(one.id) for one in sorted(found, key=lambda one: str(one.name))]
    known = list(known)
    found = name_and_id(client, container, known)
    # Whoever had the name before is meant too: it may be all that is known of a container that was made anew.
    return list(dict.fromkeys([found[1], *(one for name, one in known if name == found[0])])) if found else []


def select_containers(client: docker.DockerClient, container: str | None, label: str | None) -> list[Container]:
    """Find the container of a name, or all running ones with a label (`key=value`); exactly one of the two is given.

    Raises:
        InvalidArgument: neither or both are given, or the label is none.
        ContainerError: nothing was found, or something found must not be touched.
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
    """The container of ours that has this name and role, in whatever state; None if there is none.

    Raises:
        EngineError: somebody else's container has the name.
    """
    with engine_errors(f"looking for container {name!r}"):
        try:
            found = client.containers.get(name)
        except docker.errors.NotFound:
            return None
    if found.labels.get(ROLE_LABEL) != role:
        raise EngineError(f"container {name!r} is not chaosorca's: rename it, chaosorca needs this name")
    return found


def count_processes(client: docker.DockerClient, container: Container) -> int:
    """How many processes a container has now, as `docker top` shows them."""
    with engine_errors(f"listing the processes of container {container.name!r}"):
        return len(client.api.top(container.id)["Processes"])


def check_selection(container: str | None, label: str | None) -> None:
    """Check that either a container or a label is given.

    Raises:
        InvalidArgument: neither or both are, or the label is none.
    """
    if (container is None) == (label is None):
        raise InvalidArgument("give either container or label, not both and not neither")
    if label is not None:
        check_label(label)


def check_label(label: object) -> str:
    """Return a label that selects containers.

    Raises:
        InvalidArgument: it is not written as key=value.
    """
    if not isinstance(label, str) or not label.partition("=")[0] or not label.partition("=")[2]:
        raise InvalidArgument(f"label {label!r} is not written as key=value")
    return label
