"""Commands in containers, through the Docker client and a fake engine on a Unix socket."""

from __future__ import annotations

import io
import json
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import docker
import docker.errors
import pytest

from chaosorca.engine.client import engine_errors
from chaosorca.engine.command import Ended, demultiplexed, run_command
from chaosorca.exceptions import EngineError

UPGRADED = (
    b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)
Engine = Callable[..., docker.DockerClient]


def part(stream: int, written: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(written)) + written


def answer(status: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


@pytest.fixture
def asked() -> list[str]:
    """The first lines and headers of all requests."""
    return []


@pytest.fixture
def engine(tmp_path: Path, asked: list[str]) -> Iterator[Engine]:
    """Return a function that gives the client of an engine. The engine answers the start of a command with separate pieces."""
    servers = []

    def make(*pieces: bytes, exit_code: int = 0) -> docker.DockerClient:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while request := self.rfile.readline().decode():
                    length, head = 0, request
                    while (header := self.rfile.readline().decode().strip().lower()) != "":
                        length = int(header.removeprefix("content-length:")) if header.startswith("content-length:") else length
                        head += f"{header}\n"
                    asked.append(head)
                    self.rfile.read(length)
                    path = request.split()[1]
                    if path.endswith("/containers/web/exec"):
                        self.wfile.write(answer("201 Created", {"Id": "one"}))
                    elif path.endswith("/exec/one/json"):
                        self.wfile.write(answer("200 OK", {"ExitCode": exit_code}))
                    elif path.endswith("/exec/one/start"):
                        for piece in pieces:
                            self.wfile.write(piece)
                            self.wfile.flush()
                        return

        server = socketserver.ThreadingUnixStreamServer(str(tmp_path / "engine.sock"), Handler)
        server.daemon_threads = True  # the client keeps its connections open
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return docker.DockerClient(base_url=f"unix://{tmp_path}/engine.sock", version="1.41")

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def in_web(client: docker.DockerClient) -> Ended:
    return run_command(SimpleNamespace(client=client, id="web"), ["true"])


def test_output_that_arrives_with_the_headers_is_not_lost(engine: Engine) -> None:
    client = engine(UPGRADED + part(1, b"all of") + part(2, b"beside") + part(1, b" it\n"), exit_code=3)
    assert in_web(client) == Ended(3, b"all of it\n", b"beside")


def test_output_in_many_pieces_is_complete(engine: Engine) -> None:
    stream = UPGRADED + part(1, b"x" * 20_000) + part(2, b"") + part(1, b"y")
    client = engine(*(stream[begin : begin + 777] for begin in range(0, len(stream), 777)))
    assert in_web(client) == Ended(0, b"x" * 20_000 + b"y", b"")


def test_a_command_that_writes_nothing(engine: Engine) -> None:
    assert in_web(engine(UPGRADED)) == Ended(0, b"", b"")


def test_messages_of_the_engine_are_among_the_errors(engine: Engine) -> None:
    assert in_web(engine(UPGRADED + part(2, b"a") + part(3, b"the engine's"), exit_code=126)) == Ended(126, b"", b"athe engine's")


def test_a_connection_that_breaks_is_the_engines_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    client = engine(UPGRADED + part(1, b"x"))

    def breaks(_: object) -> None:
        raise ConnectionResetError("Connection reset by peer")

    monkeypatch.setattr("chaosorca.engine.command.demultiplexed", breaks)
    with (
        pytest.raises(EngineError, match=r"^the Docker Engine did not answer while testing: Connection reset by peer$"),
        engine_errors("testing"),
    ):
        in_web(client)


def test_headers_of_dockers_configuration_are_sent_with_all(engine: Engine, asked: list[str]) -> None:
    client = engine(UPGRADED)
    client.api._general_configs = {"HttpHeaders": {"X-Who": "me"}}
    in_web(client)
    assert len(asked) == 3
    assert all("x-who: me" in one for one in asked)
    assert "upgrade: tcp" in asked[1]


def test_a_refusal_is_an_error_of_the_docker_client(engine: Engine) -> None:
    with pytest.raises(docker.errors.APIError) as caught:
        in_web(engine(answer("409 Conflict", {"message": "container web is paused"})))
    assert caught.value.explanation == "container web is paused"


@pytest.mark.parametrize("cut", range(1, 8))
def test_an_incomplete_header_is_ignored(cut: int) -> None:
    assert demultiplexed(io.BytesIO(part(1, b"whole") + part(2, b"lost")[:cut])) == (b"whole", b"")
