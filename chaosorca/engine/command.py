"""Run commands in running containers, and read their complete output."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import docker.errors
import requests
from docker.models.containers import Container as DockerContainer

_STDOUT, _STDERR, _ENGINE = 1, 2, 3
_HEADER = struct.Struct(">BxxxL")
"""The header of each frame: its stream and its length (Docker Engine API, "Attach to a container", "Stream format")."""


class Ended(NamedTuple):
    """The result of a command."""

    exit_code: int | None
    output: bytes
    errors: bytes


def run_command(container: DockerContainer, command: Sequence[str]) -> Ended:
    """Run a command in a container. Wait without a timeout until the command ends.

    docker-py's `exec_run` loses output that arrives together with the headers of the engine's answer (its issues 2042 and 3332).
    The buffered reader of the headers has already consumed that output, but `exec_run` then reads directly from the socket. This
    function reads everything through the buffered reader.

    Raises:
        docker.errors.APIError: the engine refuses the command. Callers convert this error with `engine_errors`.
        requests.RequestException: the engine does not answer.
    """
    api = container.client.api
    identifier = api.exec_create(container.id, list(command))["Id"]
    response = api._post(
        api._url("/exec/{0}/start", identifier),
        json={"Detach": False, "Tty": False},
        headers={"Connection": "Upgrade", "Upgrade": "tcp"},
        stream=True,
        timeout=None,
    )
    try:
        response.raise_for_status()
        output, errors = demultiplexed(response.raw._fp.fp)
    except requests.HTTPError as error:
        raise docker.errors.create_api_error_from_http_exception(error) from error
    except OSError as error:  # the library `requests` does not wrap socket errors here
        raise requests.ConnectionError(error) from error
    finally:
        response.close()
    return Ended(api.exec_inspect(identifier)["ExitCode"], output, errors)


def demultiplexed(stream: BinaryIO) -> tuple[bytes, bytes]:
    """Split the multiplexed stream of a command into standard output and standard error.

    The engine's own messages are appended to standard error.
    """
    written: defaultdict[int, bytearray] = defaultdict(bytearray)
    while len(header := stream.read(_HEADER.size)) == _HEADER.size:
        source, length = _HEADER.unpack(header)
        written[source] += stream.read(length)
    return bytes(written[_STDOUT]), bytes(written[_STDERR] + written[_ENGINE])
