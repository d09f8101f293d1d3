"""Starting the agent's container, with an engine that knows some places."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest

from chaosorca.engine import agent


class FakeContainer:
    def __init__(self, client: FakeClient, options: dict[str, Any]) -> None:
        self.client = client
        self.options = options
        self.removed = False

    def start(self) -> None:
        source = next((mount["Source"] for mount in self.options["mounts"]), None)
        if source in self.client.denied:
            raise refusal(500, f"mounts denied: {source}")

    def remove(self, **_: Any) -> None:
        self.removed = True


class FakeClient:
    """As much of a Docker client as starting a container needs."""

    def __init__(self, socket_path: str | None, missing: set[str], denied: set[str]) -> None:
        self.api = SimpleNamespace(base_url="", get_adapter=lambda _: SimpleNamespace(socket_path=socket_path))
        self.missing = missing
        self.denied = denied
        self.containers = self
        self.made: list[FakeContainer] = []
        self.error: Exception | None = None

    def info(self) -> dict[str, Any]:
        return {"SecurityOptions": None}

    def get(self, name: str) -> str:
        return f"the {name} that is there"

    def create(self, _image: str, **options: Any) -> FakeContainer:
        if self.error:
            raise self.error
        if {mount["Source"] for mount in options["mounts"]} & self.missing:
            raise refusal(400, "bind source path does not exist")
        self.made.append(FakeContainer(self, options))
        return self.made[-1]


def refusal(status: int, explanation: str) -> docker.errors.APIError:
    return docker.errors.APIError(
        "refused", response=SimpleNamespace(status_code=status, url="", reason=""), explanation=explanation
    )


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "ensure_network", lambda _: "chaosorca")


USUAL, OTHER = "/var/run/docker.sock", "/run/user/1000/docker.sock"


@pytest.mark.parametrize(
    ("path", "missing", "denied", "mounted"),
    [
        (USUAL, set(), set(), USUAL),
        (OTHER, set(), set(), OTHER),
        (None, set(), set(), USUAL),
        (OTHER, {OTHER}, set(), USUAL),
        (OTHER, set(), {OTHER}, USUAL),
        (OTHER, {OTHER}, {USUAL}, None),
        (None, {USUAL}, set(), None),
    ],
)
def test_the_agent_gets_the_engines_socket_where_there_is_one(
    path: str | None, missing: set[str], denied: set[str], mounted: str | None
) -> None:
    client = FakeClient(path, missing, denied)
    started = agent._run(client, "image")
    assert [(one["Source"], one["Target"], one["Type"], one["ReadOnly"]) for one in started.options["mounts"]] == (
        [(mounted, "/host/docker.sock", "bind", True)] if mounted else []
    )
    assert [one.removed for one in client.made] == [True] * (len(client.made) - 1) + [False]


def test_another_start_that_was_faster_is_taken_and_any_other_refusal_is_told() -> None:
    client = FakeClient(None, set(), set())
    client.error = refusal(409, "name in use")
    assert agent._run(client, "image") == "the chaosorca-agent that is there"
    client.error = refusal(500, "no space left")
    with pytest.raises(docker.errors.APIError, match="no space left"):
        agent._run(client, "image")
