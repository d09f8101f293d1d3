"""The stream of engine events, with an engine that is a small HTTP server on a Unix socket."""

from __future__ import annotations

import json
import queue
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from chaosorca.agent.targets.engine_events import EngineEvents, name_in_event
from chaosorca.model.errors import AgentError

OWN, OLD, NEW = "0" * 64, "a" * 64, "b" * 64


def event(name: str, action: str = "start") -> bytes:
    described = {"Type": "container", "Action": action, "Actor": {"ID": NEW, "Attributes": {"image": "nginx", "name": name}}}
    return json.dumps(described).encode() + b"\n"


def inspected(name: str, id_: str, labels: Any = None, running: bool = True, network: str = "bridge") -> dict[str, Any]:
    return {
        "Name": f"/{name}",
        "Id": id_,
        "State": {"Status": "running" if running else "exited", "Running": running, "Pid": 4242},
        "Config": {"Labels": labels},
        "HostConfig": {"NetworkMode": network},
    }


class FakeEngine(socketserver.ThreadingUnixStreamServer):
    """Answers what the test put into `answers`, and streams what it puts into `lines` (None ends the stream)."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, Any] = {OWN: inspected("chaosorca-agent", OWN)}
        self.lines: queue.Queue[bytes | None] = queue.Queue()
        self.asked: list[str] = []
        self.events_status = 200
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                engine.asked.append(self.path)
                if self.path.startswith("/events"):
                    self.stream()
                    return
                answer = engine.answers.get(self.path.split("/")[2])
                body = json.dumps(answer or {"message": "No such container"}).encode()
                self.send_response((answer or {}).get("status", 200) if answer else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def stream(self) -> None:
                self.send_response(engine.events_status)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                while (line := engine.lines.get()) is not None:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                self.wfile.write(b"0\r\n\r\n")

            def address_string(self) -> str:
                return "a unix socket"

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(str(path), Handler)

    def streams(self) -> int:
        """Return how often its events were requested."""
        return sum(path.startswith("/events") for path in self.asked)


class Follower:
    """The targets, and the calls of the callback."""

    def __init__(self, **ids: str) -> None:
        self.ids = {name: {one} for name, one in ids.items()}
        self.new: list[dict[str, Any]] = []
        self.error: Exception | None = None

    def followed(self) -> dict[str, set[str]]:
        return self.ids

    def on_new(self, container: dict[str, Any]) -> None:
        self.new.append(container)
        if self.error:
            raise self.error
        self.ids[container["name"]] = {container["id"]}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "s") as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def start(tmp_path: Path) -> Callable[[Follower], EngineEvents]:
    def run(follower: Follower) -> EngineEvents:
        events = EngineEvents(follower.followed, follower.on_new, str(tmp_path / "s"), OWN, pause=0.01)
        threading.Thread(target=events.run, daemon=True).start()
        return events

    return run


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (event("web"), "web"),
        (event("web", "rename"), "web"),
        (b'{"Type":"container","Action":"start","Actor":{"ID":"a","Attributes":{"image":"nginx"}}}', None),
        (b'{"Actor":{"Attributes":{"name":5}}}', None),
        (b'{"Actor":{"Attributes":null}}', None),
        (b'{"Actor":null}', None),
        (b"{}", None),
        (b"[]", None),
        (b"5", None),
        (b'"name"', None),
        (b"null", None),
        (b"", None),
        (b"\n", None),
        (b"{", None),
        (b"\xff\xfe", None),
    ],
)
def test_the_name_in_an_event(line: bytes, name: str | None) -> None:
    assert name_in_event(line) == name


@pytest.mark.parametrize(
    ("network", "on_host", "shared"), [("bridge", False, False), ("host", True, False), ("container:x", False, True)]
)
def test_a_recreated_container_is_described_as_the_engine_side_does(
    network: str, on_host: bool, shared: bool, engine: FakeEngine, start: Callable[[Follower], EngineEvents]
) -> None:
    follower = Follower(web=OLD)
    engine.answers["web"] = inspected("web", OLD)
    events = start(follower)
    assert events.status() == {"follows": "names", "follows_reason": ""}
    assert events.warnings() == []
    engine.answers["web"] = inspected("web", NEW, network=network)
    engine.lines.put(event("web"))
    wait_for(lambda: follower.new)
    assert follower.new == [{"name": "web", "id": NEW, "pid": 4242, "host_network": on_host, "shared_network": shared}]


def test_starts_and_renamings_are_requested_from_before_the_connection(
    engine: FakeEngine, start: Callable[[Follower], EngineEvents]
) -> None:
    begin = time.time()
    start(Follower(web=OLD)).status()
    assert [urlsplit(path).path for path in engine.asked[:3]] == [f"/containers/{OWN}/json", "/events", "/containers/web/json"]
    query = {key: value[0] for key, value in parse_qs(urlsplit(engine.asked[1]).query).items()}
    assert json.loads(query["filters"]) == {"type": ["container"], "event": ["start", "rename"]}
    assert begin - 2.1 < int(query["since"]) < begin


@pytest.mark.parametrize(
    "now",
    [
        inspected("web", OLD),  # the same container was started again
        inspected("web-1", NEW),  # no container has the name, and an id begins with it
        inspected("web", NEW, running=False),
        inspected("web", NEW, labels={"chaosorca.protected": "true"}),
        inspected("web", NEW, labels={"chaosorca.role": "agent"}),
        None,
    ],
)
def test_who_is_not_followed(now: Any, engine: FakeEngine, start: Callable[[Follower], EngineEvents]) -> None:
    follower = Follower(web=OLD, other=OLD)
    events = start(follower)
    events.status()
    engine.answers |= {"web": now, "stranger": inspected("stranger", NEW), "other": inspected("other", NEW)}
    for name in ("web", "stranger", "other"):
        engine.lines.put(event(name))
    wait_for(lambda: follower.new)
    assert [one["name"] for one in follower.new] == ["other"]
    assert "/containers/stranger/json" not in engine.asked
    assert engine.streams() == 1


def test_a_name_that_two_containers_are_followed_under_is_the_new_ones(
    engine: FakeEngine, start: Callable[[Follower], EngineEvents]
) -> None:
    follower = Follower()
    follower.ids = {"web": {OLD, NEW}}  # the monitoring has moved already, the fault has not
    engine.answers["web"] = inspected("web", NEW)
    start(follower)
    wait_for(lambda: follower.ids == {"web": {NEW}})


@pytest.mark.parametrize("error", [AgentError("container 'web' has ended"), ProcessLookupError(3, "No such process")])
def test_a_container_that_cannot_be_taken_over_ends_nothing(
    error: Exception, engine: FakeEngine, start: Callable[[Follower], EngineEvents]
) -> None:
    follower = Follower(web=OLD)
    follower.error = error
    events = start(follower)
    events.status()
    engine.answers["web"] = inspected("web", NEW)
    engine.lines.put(event("web"))
    wait_for(lambda: len(follower.new) == 1)
    follower.error = None
    engine.lines.put(event("web"))
    wait_for(lambda: follower.ids["web"] == {NEW})
    assert engine.streams() == 1


def test_no_event_is_missed_when_the_stream_is_reopened(engine: FakeEngine, start: Callable[[Follower], EngineEvents]) -> None:
    follower = Follower(web=OLD)
    engine.answers["web"] = inspected("web", OLD)
    events = start(follower)
    events.status()
    engine.answers["web"] = inspected("web", NEW)
    engine.lines.put(None)
    wait_for(lambda: follower.new)
    wait_for(lambda: events.problem() == "")
    assert engine.streams() == 2
    assert follower.ids == {"web": {NEW}}


def test_an_engine_that_comes_later_is_followed_from_then_on(tmp_path: Path, start: Callable[[Follower], EngineEvents]) -> None:
    follower = Follower(web=OLD)
    events = start(follower)
    reason = "the engine's socket is not mounted into the agent"
    assert events.status() == {"follows": "ids only", "follows_reason": reason}
    assert events.warnings() == [f"it will not be followed when it is re-created under its name: {reason}"]
    with FakeEngine(tmp_path / "s") as engine:
        engine.answers["web"] = inspected("web", NEW)
        threading.Thread(target=engine.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        wait_for(lambda: follower.new)
        wait_for(lambda: events.status()["follows"] == "names")
        engine.shutdown()


@pytest.mark.parametrize(
    ("own", "events_status", "reason"),
    [
        (None, 200, "it belongs to another Docker Engine"),
        ({"status": 403}, 200, f"the Docker Engine answered 403 to /containers/{OWN}/json"),
        ({}, 500, "the Docker Engine answered 500 when asked for its events"),
    ],
)
def test_an_engine_that_cannot_be_followed(
    own: Any, events_status: int, reason: str, engine: FakeEngine, start: Callable[[Follower], EngineEvents]
) -> None:
    engine.answers[OWN] = inspected("chaosorca-agent", OWN) | own if own is not None else None
    engine.events_status = events_status
    follower = Follower(web=OLD)
    engine.answers["web"] = inspected("web", NEW)
    assert start(follower).status() == {"follows": "ids only", "follows_reason": f"the engine's socket cannot be used: {reason}"}
    assert follower.new == []


def test_a_socket_that_nobody_listens_at(tmp_path: Path, start: Callable[[Follower], EngineEvents]) -> None:
    FakeEngine(tmp_path / "s").server_close()
    assert start(Follower()).problem() == "the engine's socket cannot be used: [Errno 111] Connection refused"
