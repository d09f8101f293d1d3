"""The answers of the control socket, with a fake agent."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from chaosorca.agent.server import OPERATIONS, answer, make_server
from chaosorca.model.errors import KINDS, OrcaError


class FakeAgent:
    """Returns or raises what the test gives it."""

    def __init__(self, result: Any = None) -> None:
        self.result = result
        self.asked: list[dict[str, Any]] = []

    def status(self, **arguments: Any) -> Any:
        self.asked.append(arguments)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def start_monitoring(self, container: dict[str, Any], monitors: list[str]) -> Any:
        return {"name": container["name"], "monitors": monitors}

    def shut_down(self) -> None:
        raise AssertionError("no request may call this")


def ask(agent: Any, request: Any) -> dict[str, Any]:
    return answer(agent, request if isinstance(request, bytes) else json.dumps(request).encode())


@pytest.mark.parametrize(
    ("request_", "result"),
    [
        ({"do": "status"}, {"targets": []}),
        ({"do": "status", "with": {}}, [1, "2", None]),
        ({"do": "status", "with": {"a": 1}}, None),
    ],
)
def test_what_the_agent_returns_is_the_answer(request_: dict[str, Any], result: Any) -> None:
    agent = FakeAgent(result)
    assert ask(agent, request_) == {"ok": result}
    assert agent.asked == [request_.get("with", {})]


def test_arguments_are_passed_by_name() -> None:
    request = {"do": "start_monitoring", "with": {"monitors": ["http"], "container": {"name": "web"}}}
    assert ask(FakeAgent(), request) == {"ok": {"name": "web", "monitors": ["http"]}}


@pytest.mark.parametrize(
    "operation",
    ["shut_down", "keep_faults_up", "keep_monitors_up", "snapshot", "_describe", "__init__", "__class__", "", "Status", None, 5],
)
def test_an_operation_that_is_not_offered_is_refused(operation: Any) -> None:
    assert ask(FakeAgent(), {"do": operation}) == {
        "error": {
            "kind": "AgentError",
            "message": f"the agent cannot do {operation!r}: it can do {', '.join(OPERATIONS)}",
        }
    }


@pytest.mark.parametrize(
    ("request_", "failed_with"),
    [
        (b"", "JSONDecodeError"),
        (b"\n", "JSONDecodeError"),
        (b"{", "JSONDecodeError"),
        (b"status", "JSONDecodeError"),
        (b"\xff\xfe\xfa", "UnicodeDecodeError"),
        ({}, "KeyError"),
        ({"with": {}}, "KeyError"),
        ([], "TypeError"),
        (5, "TypeError"),
        (None, "TypeError"),
        ({"do": []}, None),
        ({"do": "status", "with": 5}, "TypeError"),
        ({"do": "status", "with": None}, "TypeError"),
        ({"do": "start_monitoring", "with": {}}, "TypeError"),
        ({"do": "start_monitoring", "with": {"container": {}, "monitors": []}}, "KeyError"),
    ],
)
def test_no_request_can_raise(request_: Any, failed_with: str | None) -> None:
    error = ask(FakeAgent(), request_)["error"]
    assert error["kind"] == "AgentError"
    assert error["message"].startswith(f"the agent failed with {failed_with}: " if failed_with else "the agent cannot do []")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_error_of_ours_comes_back_by_name(kind: str) -> None:
    assert ask(FakeAgent(KINDS[kind]("it went wrong")), {"do": "status"}) == {"error": {"kind": kind, "message": "it went wrong"}}


class Unknown(OrcaError):
    """An error that the engine side has no name for."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Unknown("it went wrong"), "it went wrong"),
        (OrcaError("it went wrong"), "it went wrong"),
        (RuntimeError("boom"), "the agent failed with RuntimeError: boom"),
        (KeyError("x"), "the agent failed with KeyError: 'x'"),
        (OSError(13, "Permission denied"), "the agent failed with PermissionError: [Errno 13] Permission denied"),
    ],
)
def test_an_unexpected_error_is_an_error_of_the_agent(error: Exception, message: str) -> None:
    assert ask(FakeAgent(error), {"do": "status"}) == {"error": {"kind": "AgentError", "message": message}}


def test_a_line_over_the_socket_is_answered_with_a_line(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("left by another agent")
    server = make_server(FakeAgent({"targets": []}), str(path))  # type: ignore[arg-type]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        for line, expected in ((b'{"do": "status"}\n', {"ok": {"targets": []}}), (b"nonsense\n", "error")):
            with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as reader:
                connection.settimeout(5)
                connection.connect(str(path))
                connection.sendall(line)
                answered = json.loads(reader.readline())
            assert answered == expected or expected in answered
    finally:
        server.shutdown()
        server.server_close()
