"""Start of the agent's container, with a fake engine that has some sockets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest

from chaosorca.engine import agent
from chaosorca.exceptions import AgentError, InvalidArgument
from tests.support.records import fault_record


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
    """A fake Docker client that can start a container."""

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
def test_the_agent_gets_the_first_engine_socket_that_exists(
    path: str | None, missing: set[str], denied: set[str], mounted: str | None
) -> None:
    client = FakeClient(path, missing, denied)
    started = agent._run(client, "image")
    assert [(one["Source"], one["Target"], one["Type"], one["ReadOnly"]) for one in started.options["mounts"]] == (
        [(mounted, "/host/docker.sock", "bind", True)] if mounted else []
    )
    assert [one.removed for one in client.made] == [True] * (len(client.made) - 1) + [False]


def test_a_faster_start_is_accepted_and_other_refusals_are_errors() -> None:
    client = FakeClient(None, set(), set())
    client.error = refusal(409, "name in use")
    assert agent._run(client, "image") == "the chaosorca-agent that is there"
    client.error = refusal(500, "no space left")
    with pytest.raises(docker.errors.APIError, match="no space left"):
        agent._run(client, "image")


@pytest.mark.parametrize(
    ("environment", "passed"),
    [
        ({}, {}),
        ({"CHAOSORCA_TRACE": "1", "HOME": "/root"}, {"CHAOSORCA_TRACE": "1"}),
        ({"CHAOSORCA_TRACE": "", "CHAOSORCA_LOG_LEVEL": ""}, {}),
        *(({"CHAOSORCA_LOG_LEVEL": level},) * 2 for level in ("debug", "info", "warning", "error")),
        ({"CHAOSORCA_TRACE": "1", "CHAOSORCA_LOG_LEVEL": "debug"},) * 2,
        ({"CHAOSORCA_BASE": "x", "DOCKER_HOST": "unix:///x"}, {}),
    ],
)
def test_the_agent_gets_two_variables_of_the_clients_environment(
    environment: dict[str, str], passed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", environment)
    assert agent._run(FakeClient(None, set(), set()), "image").options["environment"] == passed


@pytest.mark.parametrize(
    ("name", "value", "values"),
    [
        ("CHAOSORCA_TRACE", "0", "1"),
        ("CHAOSORCA_TRACE", "true", "1"),
        ("CHAOSORCA_LOG_LEVEL", "DEBUG", "debug or info or warning or error"),
        ("CHAOSORCA_LOG_LEVEL", "5", "debug or info or warning or error"),
    ],
)
def test_a_variable_with_another_value_is_refused(name: str, value: str, values: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^environment variable {name} is '{value}': set it to {values}, or unset it$"):
        agent.agent_environment({name: value})


class FakeEngine:
    """An engine with or without an agent's container, and a log of the actions on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, status: str | None, image: str = "image") -> None:
        self.done: list[str] = []
        self.container = SimpleNamespace(status=status, attrs={"Config": {"Image": image}}) if status else None
        monkeypatch.setattr(agent, "ensure_image", lambda *_: "image")
        monkeypatch.setattr(agent, "_container", lambda _: self.container)
        monkeypatch.setattr(agent, "_is_of", lambda container, wanted: container.attrs["Config"]["Image"] == wanted)
        monkeypatch.setattr(agent, "ensure_agent", lambda *_: self.done.append("started") or agent.Agent(SimpleNamespace()))
        monkeypatch.setattr(agent, "retire_agent", lambda _: self.done.append("retired"))

    def use_agent(self) -> None:
        with agent.temporary_agent(self, None):
            self.done.append("used")


@pytest.mark.parametrize(
    ("status", "done"),
    [(None, ["started", "used", "retired"]), ("exited", ["started", "used", "retired"]), ("running", ["used"])],
)
def test_a_running_agent_is_left_running_and_a_temporary_one_is_removed(
    status: str | None, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine(monkeypatch, status)
    engine.use_agent()
    assert engine.done == done


@pytest.mark.parametrize(
    ("status", "image", "says"),
    [
        ("running", "older", r"an agent of another version \(older\) is running: .* `docker rm -f chaosorca-agent`"),
        ("paused", "image", "is paused: unpause it with `docker unpause chaosorca-agent`"),
        ("paused", "older", "is paused"),
    ],
)
def test_an_agent_that_cannot_be_used_is_left_alone(status: str, image: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(monkeypatch, status, image)
    with pytest.raises(AgentError, match=says):
        engine.use_agent()
    assert engine.done == []


def test_a_temporary_agent_is_removed_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(monkeypatch, None)
    with pytest.raises(KeyboardInterrupt), agent.temporary_agent(engine, None):
        raise KeyboardInterrupt
    assert engine.done == ["started", "retired"]


def test_faults_are_records_and_an_unreadable_record_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    one = fault_record()
    asked: list[Any] = []
    answers: dict[str, Any] = {"status": {"faults": [one.to_json()]}, "stop_fault": {"stopped": [one.to_json()]}}
    monkeypatch.setattr(agent.Agent, "ask", lambda self, operation, **given: asked.append((operation, given)) or answers[operation])
    running = agent.Agent(SimpleNamespace())
    assert running.faults() == [one]
    assert running.stop_fault(container="c", syscalls=None) == [one]
    assert asked == [("status", {}), ("stop_fault", {"container": "c", "syscalls": None})]
    answers["status"] = {"faults": [{"fault": "1"}]}
    with pytest.raises(AgentError, match=r"\(KeyError: 'run'\): use the version that started the agent"):
        running.faults()
