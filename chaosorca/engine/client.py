"""The connection to the Docker Engine, and its errors as ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import docker
import docker.errors
import requests
from logzero import logger

from chaosorca.exceptions import EngineError


@contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Turn what the Docker client raises into an `EngineError` that says what was being done."""
    try:
        yield
    except docker.errors.APIError as error:
        raise EngineError(f"the Docker Engine refused while {doing}: {error.explanation or error}") from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise EngineError(f"the Docker Engine did not answer while {doing}: {error}") from error


def connect(configuration: Mapping[str, Any] | None = None) -> docker.DockerClient:
    """Connect to the engine of `chaosorca_docker_host`, else to the one that the `docker` command would use.

    Raises:
        EngineError: no engine answers.
    """
    host = (configuration or {}).get("chaosorca_docker_host") or None
    try:
        client = docker.DockerClient(base_url=host) if host else docker.from_env()
        client.ping()
    except (docker.errors.DockerException, requests.RequestException) as error:
        where = f"at {host!r} (chaosorca_docker_host)" if host else "that the docker command would use"
        raise EngineError(f"no Docker Engine answers {where}: start it, or check who may use it ({_cause(error)})") from error
    logger.debug("using the Docker Engine at %s", client.api.base_url)
    return client


def is_local(client: docker.DockerClient) -> bool:
    """Whether the engine's published ports are on this machine's 127.0.0.1."""
    return bool(client.api.base_url.startswith(("http+docker://", "http+unix://", "npipe://")))


def _cause(error: BaseException) -> str:
    """The innermost reason of a chain of errors, which is the one that tells."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error)
