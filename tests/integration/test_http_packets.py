"""The HTTP program in the kernel, packet by packet, with sequences that a real network seldom or never produces."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest

from chaosorca.engine.images import ensure_image
from chaosorca.model.capabilities import CAPABILITIES
from tests.support.project import ROOT

GET = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OK = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
NO = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
HELLO = "\x16\x03\x01\x02\x00\x01"


@dataclass
class Talk:
    """The packets between a client and a server."""

    version: int = 4
    port: int = 40000
    steps: list[Any] = field(default_factory=list)
    next: dict[str, int] = field(default_factory=lambda: {"client": 2**32 - 30, "server": 7000})
    options: bool = False

    def packet(self, side: str, data: str = "", flags: str = "A") -> dict[str, Any]:
        """Return the next packet of a side, without sending it."""
        made = {"from": side, "flags": flags, "seq": self.next[side], "data": data, "version": self.version, "port": self.port}
        self.next[side] += len(data) + ("S" in flags) + ("F" in flags)
        return {**made, "options": self.options}

    def send(self, *packets: dict[str, Any]) -> Talk:
        self.steps += [["packet", packet] for packet in packets]
        return self

    def open(self) -> Talk:
        return self.send(self.packet("client", flags="S"), self.packet("server", flags="SA"), self.packet("client"))

    def client(self, *data: str, flags: str = "A") -> Talk:
        return self.send(*[self.packet("client", one, flags) for one in data or ("",)])

    def server(self, *data: str, flags: str = "A") -> Talk:
        return self.send(*[self.packet("server", one, flags) for one in data or ("",)])

    def send_all(self, messages: list[tuple[str, str]]) -> Talk:
        return self.send(*[self.packet(side, data) for side, data in messages])

    def sweep(self, seconds: float) -> Talk:
        self.steps.append(["sweep", seconds])
        return self


@dataclass
class Case:
    """A conversation, and its expected counts by method and code."""

    name: str
    talk: Talk
    counts: dict[str, int]
    unparsed: dict[str, int] = field(default_factory=dict)
    waiting: int = 0


def opened(**how: Any) -> Talk:
    return Talk(**how).open()


def reordered_request() -> Talk:
    talk = opened()
    first, second = talk.packet("client", GET[:10]), talk.packet("client", GET[10:])
    return talk.send(second, first).server(OK).client(GET).server(NO)


def reordered_answer() -> Talk:
    talk = opened().client(GET)
    first, second = talk.packet("server", OK[:20]), talk.packet("server", OK[20:])
    return talk.send(second, first).client(GET).server(NO)


def reordered_twice() -> Talk:
    """Two gaps in the answers to eight requests: all but the first are lost, and each is counted once as such."""
    talk = opened().client(GET * 8).server(OK)
    for after in ([OK], [OK] * 4):
        first, second = talk.packet("server", OK[:20]), talk.packet("server", OK[20:])
        talk.send(second, first)
        talk.server(*after)
    return talk.client(GET).server(NO)


def reordered_body() -> Talk:
    talk = opened().client(GET).server("HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n")
    first, second, third = (talk.packet("server", "x" * 1000) for _ in range(3))
    return talk.send(third, second, first).client(GET).server(NO)


def sent_again() -> Talk:
    talk = opened()
    request = talk.packet("client", GET)
    answer = talk.packet("server", OK)
    talk.send(request, request, answer, answer, request, answer)
    for side, data in (("client", GET), ("server", NO)):
        one = talk.packet(side, data)
        talk.send({**one, "data": data[:7]}, one)  # the rest was sent before
    return talk


def continued() -> Talk:
    head = "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 8\r\n\r\n"
    return opened().client(head).server("HTTP/1.1 100 Continue\r\n\r\n").client("GET / HT").server(OK).client(GET).server(NO)


def chunked() -> Talk:
    head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return (
        opened()
        .client(GET + GET)
        .server(head + "5\r\nHTTP/\r\n", "1A;x=y\r\n" + NO[:20], "123456\r", "\n0\r\nTrailer: x\r\n", "\r\n" + NO)
    )


def without_body() -> Talk:
    long = "HTTP/1.1 {}\r\nContent-Length: 100\r\n\r\n"
    talk = opened().client(GET.replace("GET", "HEAD"), GET, GET, GET.replace("GET", "HEAD"), GET)
    return talk.server(
        long.format("200 OK"), long.format("304 Not Modified") + "HTTP/1.1 204 No\r\n\r\n", long.format("404 No") + NO
    )


def given_up() -> Talk:
    return opened().client(GET).sweep(0).client(GET).sweep(60).server(OK).server(NO)


def of_bytes() -> Talk:
    talk = opened()
    talk.client(*(GET.replace("GET", "OPTIONS") + "PUT / HTTP/1.1\r\ncontent-length: 3\r\n\r\nGETDELETE /a HTTP/1.0\r\n\r\n"))
    return talk.server(*(OK + "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n" + NO))


def used_again() -> Talk:
    talk = opened().client(GET)
    talk.next["client"] += 100000
    return talk.open().client(GET).server(OK)


def closed_by_client() -> Talk:
    return opened().client(GET, flags="FA").server(OK[:20]).server(OK[20:], flags="FA").client()


def frame(kind: int, flags: int, stream: int, content: str) -> str:
    """Return a frame of HTTP/2."""
    header = len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return header.decode("latin-1") + content


HEADERS, DATA = frame(1, 4, 3, "\x82\x86\x84\xbe"), frame(0, 1, 3, "\0\0\0\0\x02ab")
REQUEST_ALONE = frame(1, 5, 2**24 - 1, "\x82\x86\x84\xbe")
PING, WINDOW = frame(6, 0, 0, "\x02\x04\x10\x10\x09\x0e\x07\x07"), frame(8, 0, 0, "\0\0\x20\0")
JOINED_TWO = {
    "a request": [("client", REQUEST_ALONE), ("server", HEADERS + DATA)],
    "a request with a priority": [("client", frame(1, 0x25, 3, "\0\0\0\0\x10\x82\x86"))],
    "a request with a body": [("client", HEADERS + DATA), ("server", HEADERS + DATA + frame(1, 5, 3, "\xbf"))],
    "a body that continues in other packets": [("client", HEADERS + DATA[:9]), ("client", DATA[9:])],
    "several requests": [("client", HEADERS * 3)],
    "an answer first": [("server", HEADERS + DATA)],
    "a stream that continues": [("server", "x" * 1000), ("server", DATA), ("client", WINDOW)],
    "a stream with window updates": [("client", WINDOW + frame(8, 0, 5, "\0\0\x20\0"))],
    "a ping": [("server", PING), ("client", frame(6, 1, 0, PING[9:]))],
    "a ping and a request": [("client", PING + HEADERS + DATA)],
}
NOT_TWO = {
    "zeros only": ["\0" * 9, "\0" * 64, "\0" * 1400],
    "ones, of two and of four bytes": ["\0\1" * 100, "\0\0\0\1" * 100, "\1\0\0\0" * 100, "\0" + "\1\0\0\0" * 100],
    "the start of PostgreSQL": [
        "\0\0\0\x08\x04\xd2\x16\x2f",
        "\0\0\0\x08\x04\xd2\x16\x30",
        "\0\0\x04\x08\0\3\0\0user\0" + "x" * 1020,
    ],
    "PostgreSQL": ["Q\0\0\0\x0dSELECT 1\0", "D\0\0\0\x0b\0\1\0\0\0\1\x31", "\0\0\0\4\0\0\0\1" * 20, "Z\0\0\0\5I"],
    "MySQL": [
        "\x09\0\0\3SELECT 1",
        "\0\1\0\1" + "\4" + "x" * 255,
        "\1\0\0\1\1",
        "\7\0\0\1\0\0\0\2\0\0\0",
        "\0\4\0\x06\0\0\0\0" + "x" * 1020,
    ],
    "Redis": ["*1\r\n$4\r\nPING\r\n", "$9\r\n\0\0\4\1\5\0\0\0\1\r\n", ":1\r\n"],
    "Kafka": [
        "\0\0\4\x08\0\1\0\x0b\0\0\0\5\0\x07rdkafka" + "\0" * 1015,
        "\0\0\4\x08\0\0\0\5\0\0\0\1\0\0\0\0\0\0\0\0\0\1" + "\0" * 1014,
        "\0\0\4\1\0\0\0\5\0\0\0\0" + "\0" * 1017,
        "\0\0\x08\6\0\0\0\0\0" + "\0" * 2045,
    ],
    "encrypted SSH": ["\0\0\4\x0c\5\x14" + "\1" * 1034],
    "MongoDB": ["\0\1\0\0\1\0\0\0\0\0\0\0\xdd\7\0\0" + "\0" * 240],
    "SMB": ["\0\0\4\1\xfeSMB" + "\0" * 1021],
    "Oracle": ["\0\x20\0\0\6\0\0\0\0\0" + "\1" * 22],
    "DRDA": ["\0\x20\xd0\1\0\1\0\x1a" + "\1" * 24],
    "Thrift": ["\0\0\4\1\x80\1\0\1\0\0\0\4ping" + "\0" * 1013],
    "ZooKeeper": ["\0\0\4\x08\0\0\0\7\0\0\0\4" + "\0\0\0\1" * 256, "\0\0\0\x08\xff\xff\xff\xfe\0\0\0\x0b"],
    "DNS": ["\0\x1d\0\1\1\0\0\1\0\0\0\0\0\0\3www\7example\3com\0\0\1\0\1"],
    "VNC": ["\0\0\0\1\0\0\0\0\0\x20\0\x20\0\0\0\0" + "\0" * 2000],
    "frames that are not adjacent": [
        HEADERS + "x",
        HEADERS + "x" * 20,
        HEADERS[:-1],
        WINDOW + DATA,
        PING + "\0" * 9,
        HEADERS + "\0" * 9,
    ],
    "frames that do not exist": [
        frame(1, 0x44, 3, "x"),
        frame(1, 1, 3, "x"),
        frame(1, 4, 4, "x"),
        frame(1, 4, 2**31 + 1, "x"),
        frame(1, 4, 1, ""),
        frame(1, 4, 2**24 + 1, "\x82"),
        frame(1, 4, 3, "\5\6\5"),
        HEADERS + frame(0, 0, 3, ""),
    ],
}


CASES = [
    Case("one after the other", opened().client(GET).server(OK).client(GET).server(NO), {"GET 200": 1, "GET 404": 1}),
    Case("over IPv6", opened(version=6).client(GET).server(OK), {"GET 200": 1}),
    Case("over IPv6 with options", opened(version=6, options=True).client(GET).server(OK), {"GET 200": 1}),
    Case("not answered yet", opened().client(GET), {}, waiting=1),
    Case("8 in a packet", opened().client(GET * 8).server(OK * 5 + NO * 3), {"GET 200": 5, "GET 404": 3}),
    Case("32 in a packet", opened().client(GET * 32).server(OK * 30, NO * 2), {"GET 200": 30, "GET 404": 2}),
    Case(
        "40 in a packet, and one more",
        opened().client(GET * 40).server(OK * 39, NO).client(GET).server(NO),
        {"GET 200": 32, "GET 404": 1},
        {"pipelined": 8},
    ),
    Case("byte by byte", of_bytes(), {"OPTIONS 200": 1, "PUT 201": 1, "DELETE 404": 1}),
    Case("chunked, with a text like an answer in it", chunked(), {"GET 200": 1, "GET 404": 1}),
    Case("answers without a body", without_body(), {"HEAD 200": 1, "GET 304": 1, "GET 204": 1, "HEAD 404": 1, "GET 404": 1}),
    Case("100 Continue", continued(), {"POST 200": 1, "GET 404": 1}),
    Case("an answer that ends with its connection", opened().client(GET).server("HTTP/1.0 200 OK\r\n\r\n", OK, NO), {"GET 200": 1}),
    Case("an unusual method", opened().client("PROPFIND / HTTP/1.1\r\n\r\n").server(NO), {"OTHER 404": 1}),
    Case("sent again", sent_again(), {"GET 200": 1, "GET 404": 1}),
    Case("a body in another order", reordered_body(), {"GET 200": 1, "GET 404": 1}),
    Case("a request in another order", reordered_request(), {"GET 404": 1}, {"reordered": 1}),
    Case("an answer in another order", reordered_answer(), {"GET 404": 1}, {"reordered": 1}),
    Case("answers in another order, twice", reordered_twice(), {"GET 200": 1, "GET 404": 1}, {"reordered": 7}),
    Case("reset by the client", opened().client(GET + GET).server(OK).client(flags="R"), {"GET 200": 1, "GET none": 1}),
    Case("reset by the server", opened().client(GET).server(flags="RA"), {"GET none": 1}),
    Case("closed by the server", opened().client(GET * 3).server(OK, flags="FA"), {"GET 200": 1, "GET none": 2}),
    Case("closed by the client, and answered", closed_by_client(), {"GET 200": 1}),
    Case("closed by both without an answer", opened().client(GET, flags="FA").server(flags="FA"), {"GET none": 1}),
    Case("reuse of its ports", used_again(), {"GET none": 1, "GET 200": 1}),
    Case("abandoned, and answered later", given_up(), {"GET none": 1, "GET 404": 1}),
    Case("joined within a body", Talk().server("x" * 100, "y" * 100).client(GET).server(OK), {"GET 200": 1}),
    Case("joined before an answer", Talk().server(OK).client(GET).server(NO), {"GET 404": 1}, {"joined mid-message": 1}),
    Case("joined between", Talk().client(GET).server(OK).client(GET).server(NO), {"GET 200": 1, "GET 404": 1}),
    Case("data with the first packet", Talk().client(GET, flags="S").server(flags="SA").server(OK), {"GET 200": 1}),
    Case("a websocket", opened().client(GET).server("HTTP/1.1 101 Switching\r\n\r\n", OK).client(GET), {"GET 101": 1}),
    Case(
        "a tunnel",
        opened().client("CONNECT a:1 HTTP/1.1\r\n\r\n").server("HTTP/1.1 200 OK\r\n\r\n").client(GET).server(OK),
        {"CONNECT 200": 1},
    ),
    Case(
        "a tunnel that is refused",
        opened().client("CONNECT a:1 HTTP/1.1\r\n\r\n").server(NO).client(GET).server(OK),
        {"CONNECT 404": 1, "GET 200": 1},
    ),
    Case("HTTP/2", opened().client("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + GET).server(OK), {}, {"HTTP/2": 1}),
    *[
        Case(f"an earlier HTTP/2 connection: {name}", Talk().send_all(messages).client(HEADERS).server(OK, GET), {}, {"HTTP/2": 1})
        for name, messages in JOINED_TWO.items()
    ],
    *[Case(f"not HTTP/2: {name}", Talk().client(*messages).server(*messages), {}) for name, messages in NOT_TWO.items()],
    Case(
        "HTTP/2 after an upgrade",
        opened().client(GET).server("HTTP/1.1 101 Switching Protocols\r\n\r\n" + frame(4, 0, 0, "")).client(HEADERS),
        {"GET 101": 1},
    ),
    Case("TLS that may still be seen", opened().client(HELLO, GET).server("\x16\x03\x03", OK).sweep(60), {}),
    Case("TLS", opened().client(HELLO, GET).server("\x16\x03\x03", OK).sweep(0), {}, {"TLS": 1}),
    Case("TLS that was reset", opened().client(HELLO, flags="RA").sweep(0), {}),
    Case("TLS that has ended", opened().client(HELLO).client(flags="FA").server(flags="FA").sweep(0), {}, {"TLS": 1}),
    Case("TLS and another connection", opened().client(HELLO).send(Talk().packet("client", flags="S")), {}, {"TLS": 1}),
    Case(
        "an earlier TLS connection",
        Talk().client("\x17\x03\x03\x00\x20abc", GET).server("\x17\x03\x03", OK).sweep(0),
        {},
        {"TLS": 1},
    ),
    Case("Redis", opened().client("*1\r\n$4\r\nPING\r\n").server("+PONG\r\n").client(GET).server(OK), {}),
    Case("Redis, inline", opened().client("GET key\r\n").server("$-1\r\n"), {}),
    Case("PostgreSQL", opened().client("\x00\x00\x00\x08\x04\xd2\x16\x2f", GET).server("S"), {}),
    Case("SSH", opened().server("SSH-2.0-x\r\n").client("SSH-2.0-x\r\n", GET).server(OK), {}),
    Case(
        "a damaged answer",
        opened().client(GET + GET).server("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", NO).client(GET).server(NO),
        {"GET 200": 1, "GET 404": 1},
        {"malformed": 1},
    ),
]
REQUEST = Talk().packet("client", GET)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
CODES = range(200, 1000)


def many_pairs() -> Talk:
    """Each method, answered once by each code, 32 in a packet."""
    talk = opened()
    for method in METHODS:
        for first in range(0, len(CODES), 32):
            codes = CODES[first : first + 32]
            talk.client(GET.replace("GET", method) * len(codes))
            talk.server("".join(f"HTTP/1.1 {code} x\r\nContent-Length: 0\r\n\r\n" for code in codes))
    return talk


LIMITED = {
    "an acknowledgement": [["packet", {**Talk().packet("client"), "repeat": 20000}]] * 5,
    "another protocol": [["packet", {**Talk(port=5).packet("client", "\x00" * 64), "repeat": 20000}]] * 5,
    "many connections": [["many", {"packet": REQUEST, "count": 40000}], ["sweep", 60]],
    "many pairs of method and code": many_pairs().steps,
}


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """The program's counts for all conversations, each with its own container."""
    client = docker.from_env()
    script = Path("tests/integration/http/packets.py")
    command = ["docker", "run", "--rm", "-i", "--cap-drop=ALL", *[f"--cap-add={name}" for name in CAPABILITIES]]
    command += ["--security-opt=seccomp=unconfined", "-v", f"{ROOT / script}:/{script.name}:ro", "--entrypoint=python3"]
    given = {case.name: case.talk.steps for case in CASES} | LIMITED
    run = subprocess.run(
        [*command, ensure_image(client, "agent", None), f"/{script.name}"],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_counted(results: dict[str, Any], case: Case) -> None:
    found = results[case.name]
    assert found["counts"] == {f"server {what}": count for what, count in case.counts.items()}
    assert found["unparsed"] == case.unparsed
    assert found["waiting"] == case.waiting
    assert found["timed"] == sum(count for what, count in case.counts.items() if "none" not in what)
    assert found["dropped"] == 0


def test_connections_without_room_are_reported_as_missing(results: dict[str, Any]) -> None:
    found = results["many connections"]
    assert found["waiting"] == 40000
    assert 10000 < found["swept"] <= 32768
    assert results["left"]["connections"] <= 32768


def test_requests_without_room_for_their_count_are_reported_as_missing(results: dict[str, Any]) -> None:
    found = results["many pairs of method and code"]
    assert results["left"]["counts"] == 4096
    assert set(found["counts"].values()) == {1}
    assert found["dropped"] > 0
    assert sum(found["counts"].values()) + found["dropped"] == found["timed"] == len(METHODS) * len(CODES)
    assert found["unparsed"] == {}
    assert found["waiting"] == 0


def test_what_is_no_http_costs_little(results: dict[str, Any]) -> None:
    assert results["an acknowledgement"]["nanoseconds"] < 500
    assert results["another protocol"]["nanoseconds"] < 1000
