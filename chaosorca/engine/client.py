"""The connection to the Docker Engine. Errors of the connection become `EngineError`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import docker
import docker.errors
import requests
from logzero import logger

from chaosorca.exceptions import EngineError

_LOCAL = ("http+docker://localhost", "http+docker://localnpipe")
"""Base URLs of the Docker client for a Unix socket and for a named pipe."""


@contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Turn errors of the Docker client into an `EngineError`.

    Arguments:
        doing: what the code in the block does, for the message, as in "removing container 'web'".
    """
    try:
        yield
    except docker.errors.APIError as error:
        raise EngineError(f"the Docker Engine refused while {doing}: {error.explanation or error}") from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise EngineError(f"the Docker Engine did not answer while {doing}: {error}") from error


def connect(configuration: Mapping[str, Any] | None = None) -> docker.DockerClient:
    """Connect to the engine at `chaosorca_docker_host`. Without this setting, use the engine of the environment (`DOCKER_HOST`).

    Raises:
        EngineError: no engine answers.
    """
    host = (configuration or {}).get("chaosorca_docker_host") or None
    try:
        client = docker.DockerClient(base_url=host) if host else docker.from_env()
        client.ping()
    except (docker.errors.DockerException, requests.RequestException, ValueError) as error:
        where = f"at {host!r} (chaosorca_docker_host)" if host else "where the docker command looks for one"
        raise EngineError(f"no Docker Engine answers {where}: start it, or check that you may use it ({_cause(error)})") from error
    logger.debug("using the Docker Engine at %s", client.api.base_url)
    return client


def is_local(client: docker.DockerClient) -> bool:
    """Return whether the engine publishes ports on this machine's 127.0.0.1."""
    return client.api.base_url in _LOCAL


def socket_path(client: docker.DockerClient) -> str | None:
    """Return the path of the Unix socket to the engine; None for any other connection."""
    path = getattr(client.api.get_adapter(client.api.base_url), "socket_path", None)
    return str(path) if path else None


def _cause(error: BaseException) -> str:
    """Return the message of the innermost operating system error. If there is no such error, return the text of `error`."""
    inner: BaseException | None = error
    reason = str(error)
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            reason = inner.strerror
        inner = inner.__context__
    return reason
