"""The private network on which Prometheus finds the agent by name."""

from __future__ import annotations

import contextlib

import docker
import docker.errors

from chaosorca.engine.client import engine_errors
from chaosorca.model.contract import NETWORK, ROLE_LABEL


def ensure_network(client: docker.DockerClient) -> str:
    """Return the network's name. Create the network first if it does not exist."""
    with engine_errors(f"creating network {NETWORK!r}"):
        if not client.networks.list(names=[f"^{NETWORK}$"], filters={"label": ROLE_LABEL}):
            with contextlib.suppress(docker.errors.APIError):
                client.networks.create(NETWORK, driver="bridge", labels={ROLE_LABEL: "network"}, check_duplicate=True)
            client.networks.get(NETWORK)
    return NETWORK


def remove_unused_network(client: docker.DockerClient) -> None:
    """Remove the network unless a container is connected to it."""
    with engine_errors(f"removing network {NETWORK!r}"):
        for network in client.networks.list(names=[f"^{NETWORK}$"], filters={"label": ROLE_LABEL}):
            with contextlib.suppress(docker.errors.APIError):
                network.remove()
