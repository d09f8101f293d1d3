"""Connections to the Docker Engine, and its errors as `EngineError`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest
import requests

from chaosorca.engine.client import connect, engine_errors, is_local
from chaosorca.exceptions import EngineError


@pytest.mark.parametrize(
    ("host", "cause"),
    [
        ("unix:///nonexistent.sock", "No such file or directory"),
        ("tcp://127.0.0.1:1", "Connection refused"),
        ("http://127.0.0.1:1", "Connection refused"),
        ("foo://x", "Invalid bind address protocol"),
        ("tcp://127.0.0.1:port", "port"),
    ],
)
def test_an_engine_that_cannot_be_reached_is_one_sentence(host: str, cause: str) -> None:
    with pytest.raises(EngineError) as caught:
        connect({"chaosorca_docker_host": host})
    text = str(caught.value)
    assert text.startswith(
        f"no Docker Engine answers at '{host}' (chaosorca_docker_host): start it, or check that you may use it ("
    )
    assert cause in text
    assert "\n" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize("configuration", [None, {}, {"chaosorca_docker_host": ""}, {"chaosorca_docker_host": None}])
def test_without_a_host_the_engine_of_the_docker_command_is_used(configuration: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    with pytest.raises(EngineError, match=r"^no Docker Engine answers where the docker command looks for one: .*No such file"):
        connect(configuration)


def refusal(explanation: str | None) -> docker.errors.APIError:
    return docker.errors.APIError("409 Client Error", explanation=explanation)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (refusal("name in use"), "the Docker Engine refused while testing: name in use"),
        (refusal(None), "the Docker Engine refused while testing: 409 Client Error"),
        (docker.errors.NotFound("gone"), "the Docker Engine refused while testing: gone"),
        (docker.errors.DockerException("broken"), "the Docker Engine did not answer while testing: broken"),
        (requests.ConnectionError("reset"), "the Docker Engine did not answer while testing: reset"),
        (requests.ReadTimeout("slow"), "the Docker Engine did not answer while testing: slow"),
    ],
)
def test_an_error_of_the_client_names_the_current_step(error: Exception, text: str) -> None:
    with pytest.raises(EngineError) as caught, engine_errors("testing"):
        raise error
    assert (str(caught.value), caught.value.__cause__) == (text, error)


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), engine_errors("testing"):
        raise KeyError("mine")
    with pytest.raises(EngineError, match=r"^ours$"), engine_errors("testing"):
        raise EngineError("ours")


@pytest.mark.parametrize(
    ("base_url", "local"),
    [
        ("http+docker://localhost", True),
        ("http+docker://localnpipe", True),
        ("http+docker://ssh", False),
        ("http://192.0.2.1:2375", False),
        ("https://docker.test:2376", False),
    ],
)
def test_only_a_socket_of_this_machine_is_local(base_url: str, local: bool) -> None:
    assert is_local(SimpleNamespace(api=SimpleNamespace(base_url=base_url))) is local
