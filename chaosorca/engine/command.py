"""A command in a running container, with all that it writes."""

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
"""Of each part of the output: whose it is, and how long it is (Docker Engine API, "Attach to a container", "Stream format")."""


class Ended(NamedTuple):
    """What came of a command."""

    exit_code: int | None
    output: bytes
    complaint: bytes


def run_command(container: DockerContainer, command: Sequence[str]) -> Ended:
    """Run a command in a container, and wait until it ends, however long that takes.

    The Docker client's own `exec_run` reads the connection past the reader that has taken the answer's headers from it. What came
    with these is lost, which is everything if this process was held up meanwhile (docker-py's issues 2042 and 3332). Here one
    reader reads it all.

    Raises:
        docker.errors.APIError: the engine refuses; see `engine_errors`.
        requests.RequestException: it does not answer.
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
        output, complaint = demultiplexed(response.raw._fp.fp)
    except requests.HTTPError as error:
        raise docker.errors.create_api_error_from_http_exception(error) from error
    except OSError as error:  # of the connection itself, which the reader knows nothing of
        raise requests.ConnectionError(error) from error
    finally:
        response.close()
    return Ended(api.exec_inspect(identifier)["ExitCode"], output, complaint)


def demultiplexed(stream: BinaryIO) -> tuple[bytes, bytes]:
    """What a command wrote to its standard output and to its standard error (or the engine had to say), from the stream of both."""
    written: defaultdict[int, bytearray] = defaultdict(bytearray)
    while len(header := stream.read(_HEADER.size)) == _HEADER.size:
        whose, length = _HEADER.unpack(header)
        written[whose] += stream.read(length)
    return bytes(written[_STDOUT]), bytes(written[_STDERR] + written[_ENGINE])
