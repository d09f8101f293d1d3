"""The containers, networks and volumes with chaosorca's label on a Docker Engine."""

from __future__ import annotations

import docker

_LABELLED = {"label": "chaosorca.role"}


def leftovers(client: docker.DockerClient) -> list[str]:
    """Return the kind and name of each container, network and volume of chaosorca."""
    containers = [f"container {one.name}" for one in client.containers.list(all=True, filters=_LABELLED, ignore_removed=True)]
    networks = [f"network {one.name}" for one in client.networks.list(filters=_LABELLED)]
    volumes = [f"volume {one.name}" for one in client.volumes.list(filters=_LABELLED)]
    return containers + networks + volumes


def remove_leftovers(client: docker.DockerClient) -> None:
    """Remove all containers, networks and volumes of chaosorca."""
    for container in client.containers.list(all=True, filters=_LABELLED, ignore_removed=True):
        container.remove(force=True, v=True)
    for kind in (client.networks, client.volumes):
        for one in kind.list(filters=_LABELLED):
            one.remove()


def check_leftovers(client: docker.DockerClient) -> None:
    """Assert that nothing of chaosorca is left. Remove any leftovers, so that they do not affect the next test."""
    left = leftovers(client)
    remove_leftovers(client)
    assert left == [], f"left behind: {left}"
