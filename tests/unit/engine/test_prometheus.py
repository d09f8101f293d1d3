"""Starting the container of Prometheus, with an engine that refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest

from chaosorca.engine import prometheus
from chaosorca.exceptions import EngineError, PortTaken

TAKEN = (
    "driver failed programming external connectivity: Bind for 127.0.0.1:9090 failed: port is already allocated",
    "failed to bind host port 127.0.0.1:9090/tcp: address already in use",
    "Ports are not available: exposing port TCP 127.0.0.1:9090: port is not available",
)


class RefusingContainer:
    """A container that the engine creates and does not start."""

    def __init__(self, explanation: str) -> None:
        self.explanation = explanation
        self.removed = False

    def put_archive(self, *_: Any) -> None:
        pass

    def start(self) -> None:
        response = SimpleNamespace(status_code=500, url="", reason="")
        raise docker.errors.APIError("refused", response=response, explanation=self.explanation)

    def stop(self, **_: Any) -> None:
        pass

    def remove(self, **_: Any) -> None:
        self.removed = True


@pytest.mark.parametrize(("explanation", "kind"), [*((text, PortTaken) for text in TAKEN), ("no space left", EngineError)])
def test_a_taken_port_is_an_error_of_its_own(explanation: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    container = RefusingContainer(explanation)
    client = SimpleNamespace(
        volumes=SimpleNamespace(create=lambda *_, **__: None), containers=SimpleNamespace(create=lambda *_, **__: container)
    )
    for name, value in {"is_local": True, "_container": None, "ensure_network": "n", "_data": object()}.items():
        monkeypatch.setattr(prometheus, name, lambda *_, value=value: value)
    monkeypatch.setattr(prometheus, "remove_unused_network", lambda _: None)
    with pytest.raises(EngineError) as refused:
        prometheus.start_prometheus(client, None, 9090, 1_000_000, image="image")
    assert type(refused.value) is kind
    assert ("port 9090 on 127.0.0.1 is taken" in str(refused.value)) == (kind is PortTaken)
    assert container.removed
