"""HTTPS figures of real servers, compared with their own logs: every request is counted once at each end, with its code."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import docker
import pytest
from docker.models.containers import Container

from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.model.contract import AGENT
from tests.support.agent_state import agent_status
from tests.support.http_servers import BODY, GET, address, ask, figures, in_flight, is_answered, run
from tests.support.project import ROOT
from tests.support.waiting import becomes, wait_for

pytestmark = pytest.mark.usefixtures("one_agent_for_all")

NGINX, NGINX_2, PYTHON, READER = 443, 444, 8443, 9000
SEND_HELLO = """
import socket
connection = socket.create_connection(("127.0.0.1", 9000))
connection.sendall(bytes.fromhex("16030100050100000100"))
connection.recv(1)
"""
PLACES = """
import json, pathlib, sys
from chaosorca.agent.code.elf import Elf
from chaosorca.agent.code.openssl import places
print(json.dumps([place.offset for place in places(Elf(pathlib.Path(sys.argv[1]).read_bytes()))]))
"""

JOINED = """
import os, socket, ssl, time
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.set_alpn_protocols(["h2"])
connection = context.wrap_socket(socket.create_connection(("127.0.0.1", 444)))
connection.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes.fromhex("000000040000000000"))
connection.recv(1000)
open("/tmp/connected", "w").close()
while not os.path.exists("/tmp/go-on"):
    time.sleep(0.02)
for _ in range(3):
    connection.sendall(bytes.fromhex("000008060000000000 0102030405060708"))
    connection.recv(1000)
"""
PROXY = """
import socket, ssl, threading

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/certificate.pem", "/key.pem")
listening = socket.create_server(("127.0.0.1", 8500))
client = context.wrap_socket(listening.accept()[0], server_side=True)
client.recv(4096)
server = socket.create_connection(("127.0.0.1", 443))
client.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
client.settimeout(0.05)
server.settimeout(0.05)
while True:
    for one, other in ((client, server), (server, client)):
        try:
            data = one.recv(65536)
        except TimeoutError:
            continue
        if not data:
            raise SystemExit
        other.sendall(data)
"""


@pytest.fixture(scope="module")
def containers(client: docker.DockerClient, image: str) -> Iterator[list[Container]]:
    """Two containers with servers, and one with a process that becomes a client.

    Each has its own libssl file. In the second one's, calls between functions cannot be recognised.
    """
    folder = ROOT / "tests" / "integration"
    client.images.build(path=str(folder / "http"), tag="chaosorca-test-http", rm=True, buildargs={"NGINX": image})
    started: list[Container] = []
    try:
        for name in ("one", "other", "late"):
            arguments = {"SERVERS": "chaosorca-test-http", "LIBRARY": name}
            client.images.build(path=str(folder / "https"), tag=f"chaosorca-test-https:{name}", rm=True, buildargs=arguments)
            command = ["python3", "/late.py", f"https://{address(started[0])}:{NGINX}/"] if name == "late" else None
            environment = {"LD_LIBRARY_PATH": "/hidden"} if name == "late" else {}
            started.append(
                client.containers.run(
                    f"chaosorca-test-https:{name}",
                    command,
                    name=f"orca-test-https-{name}",
                    environment=environment,
                    detach=True,
                )
            )
        for one in started[:2]:
            wait_for(functools.partial(is_answered, one, f"https://127.0.0.1:{PYTHON}/code/200"))
        for one in started:
            start_monitoring(container=one.name)
        yield started
        for one in started:
            stop_monitoring(container=one.name)
    finally:
        for one in started:
            one.remove(force=True, v=True)


def count(container: Container) -> Counter[str]:
    """Return the counted requests inside TLS by role, method and code."""
    found = figures(container, "chaosorca_http_requests_total", "tls", "role", "method", "code")
    return Counter({" ".join(key): number for (tls, *key), number in found.items() if tls == "true"})


def unparsed(container: Container) -> Counter[str]:
    return Counter({reason: n for (reason,), n in figures(container, "chaosorca_http_unparsed_total", "reason").items()})


class Counts:
    """What happens from now on, by the kernel's count and by the servers' logs."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._counted, self._logged, self._unparsed = count(container), self._log(), unparsed(container)

    def agrees(self, role: str, **expected: int) -> None:
        """Assert that the count of a role and the logs agree with the expected numbers, and that nothing was left out."""
        wanted = {f"{role} {what.replace('_', ' ')}": number for what, number in expected.items()}
        wait_for(lambda: self._of(role) == wanted, 5)
        if role == "server":
            becomes(lambda: {f"server {key}": number for key, number in (self._log() - self._logged).items()}, wanted)
        assert unparsed(self._container) - self._unparsed == Counter()

    def counted(self) -> dict[str, int]:
        return dict(count(self._container) - self._counted)

    def unparsed(self) -> dict[str, int]:
        return dict(unparsed(self._container) - self._unparsed)

    def _of(self, role: str) -> dict[str, int]:
        return {key: number for key, number in (count(self._container) - self._counted).items() if key.startswith(role)}

    def _log(self) -> Counter[str]:
        return Counter(run(self._container, "sh", "-c", "cat /tmp/*.log || true").splitlines())


def test_libraries_are_probed_in_both_ways(containers: list[Container], client: docker.DockerClient) -> None:
    agent = client.containers.get(AGENT)
    numbers = []
    for one in containers[:2]:
        one.reload()
        library = f"/proc/{one.attrs['State']['Pid']}/root/libssl.copy"
        numbers.append(len(json.loads(run(agent, "python3", "-c", PLACES, library))))
    assert numbers == [4, 6], "at the function that two others call, and at each"


def test_ten_thousand_requests_in_each_of_two_containers_at_once(containers: list[Container]) -> None:
    pair = containers[:2]
    counts = [Counts(one) for one in pair]
    page = GET.format("/")

    def talk(container: Container) -> None:
        ask(container, page, port=NGINX, tls=True, end=BODY, times=2500, connections=2)
        ask(container, page * 7 + GET.format("/busy"), port=NGINX, tls=True, answers=1, end="</html>", times=625)

    with ThreadPoolExecutor() as threads:
        list(threads.map(talk, pair))
    for one in counts:
        one.agrees("server", GET_200=5000 + 7 * 625, GET_503=625)
        one.agrees("client", GET_200=5000 + 7 * 625, GET_503=625)


def test_wrk(containers: list[Container]) -> None:
    before, logged = count(containers[0]), Counts(containers[0])._log()
    run(containers[0], "wrk", "-t1", "-c8", "-d1", f"https://127.0.0.1:{NGINX}/")
    wait_for(lambda: in_flight(containers[0]) == {"server": 0, "client": 0}, 5)
    now = count(containers[0]) - before
    difference = now["server GET 200"] - (Counts(containers[0])._log() - logged)["GET 200"]
    assert now["server GET 200"] > 1000
    assert abs(difference) <= 8, "except for requests that wrk abandons at its end"


def test_curl_and_a_server_in_python(containers: list[Container]) -> None:
    counts = Counts(containers[0])
    run(containers[0], "curl", "-sk", "-o", "/dev/null", f"https://127.0.0.1:{NGINX}/?[1-20]")
    run(containers[0], "curl", "-sk", "-o", "/dev/null", f"https://127.0.0.1:{NGINX}/large")
    run(containers[0], "curl", "-skI", "-o", "/dev/null", f"https://127.0.0.1:{PYTHON}/[1-5]")
    run(containers[0], "curl", "-sk", "-o", "/dev/null", f"https://127.0.0.1:{PYTHON}/chunked/[1-3]")
    data = ["--data-binary", "@/pages/large", "-H", "Expect: 100-continue"]
    run(containers[0], "curl", "-sk", "-o", "/dev/null", *data, f"https://127.0.0.1:{PYTHON}/")
    expected = {"GET_200": 24, "HEAD_404": 5, "POST_201": 1}
    counts.agrees("server", **expected)
    counts.agrees("client", **expected)


def test_answers_of_all_kinds_byte_by_byte(containers: list[Container]) -> None:
    counts = Counts(containers[1])
    kinds = ["code/204", "code/304", "chunked", "code/500", "code/404"]
    head = "HEAD /code/200 HTTP/1.1\r\nHost: x\r\n\r\n"
    upload = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\nGET / HTTP/1"
    closing = "GET /until-closed HTTP/1.1\r\nHost: x\r\n\r\n"
    everything = "".join(GET.format(f"/{kind}") for kind in kinds) + head + upload + closing
    ask(containers[1], everything, port=PYTHON, tls=True, rest=True, cut=1)
    ask(containers[1], everything, port=PYTHON, tls=True, rest=True)
    counts.agrees("server", GET_204=2, GET_304=2, GET_200=4, GET_500=2, GET_404=2, HEAD_200=2, POST_201=2)


def test_a_request_without_an_answer(containers: list[Container]) -> None:
    before = count(containers[1])
    ask(containers[1], GET.format("/silent"), port=PYTHON, tls=True, rest=True)
    wait_for(lambda: count(containers[1]) - before == {"server GET none": 1, "client GET none": 1}, 5)


def test_a_request_is_in_flight_until_it_is_answered(containers: list[Container]) -> None:
    server, client = containers[0], containers[1]
    with ThreadPoolExecutor() as pool:
        slow = GET.format("/slow/2000")
        over = pool.submit(ask, client, slow, host=address(server), port=PYTHON, tls=True, end="hello")
        wait_for(lambda: in_flight(server) == {"server": 1, "client": 0} and in_flight(client) == {"server": 0, "client": 1}, 5)
        assert not over.done()
        over.result()
    assert in_flight(server) == in_flight(client) == {"server": 0, "client": 0}


def test_each_end_is_counted_where_it_is(containers: list[Container]) -> None:
    server, client = Counts(containers[0]), Counts(containers[1])
    ask(containers[1], GET.format("/"), host=address(containers[0]), port=NGINX, tls=True, end=BODY, times=100, connections=2)
    server.agrees("server", GET_200=200)
    server.agrees("client")
    client.agrees("client", GET_200=200)
    client.agrees("server")


def test_a_short_process_is_the_first_to_use_the_library(containers: list[Container]) -> None:
    server, client = Counts(containers[0]), Counts(containers[2])
    page = f"https://{address(containers[0])}:{NGINX}/"
    run(containers[2], "env", "-u", "LD_LIBRARY_PATH", "curl", "-sk", "-o", "/dev/null", page)
    client.agrees("client", GET_200=1)
    server.agrees("server", GET_200=1)


def test_another_library_with_the_same_names(containers: list[Container]) -> None:
    counts = Counts(containers[1])
    run(containers[1], "python3", "/boring.py", str(NGINX), GET.format("/") * 7 + GET.format("/busy"), "50")
    counts.agrees("server", GET_200=350, GET_503=50)
    counts.agrees("client", GET_200=350, GET_503=50)


def test_a_library_that_is_loaded_later(containers: list[Container]) -> None:
    server, client = Counts(containers[0]), count(containers[2])
    run(containers[2], "touch", "/go")
    becomes(lambda: dict(count(containers[2]) - client), {"client GET 200": 5}, 20)
    server.agrees("server", GET_200=5)


def test_tls_within_tls(containers: list[Container]) -> None:
    """Curl's requests to a proxy over TLS: one TLS connection carries another."""
    counts = Counts(containers[0])
    containers[0].exec_run(["python3", "-c", PROXY], detach=True)
    page = f"https://127.0.0.1:{NGINX}/"
    curl = [
        "curl",
        "-sk",
        "--proxy-insecure",
        "-x",
        "https://127.0.0.1:8500",
        "-o",
        "/dev/null",
        "--retry-connrefused",
        "--retry",
        "9",
    ]
    run(containers[0], *curl, "--retry-delay", "1", f"{page}?[1-5]")
    expected = {"client GET 200": 5, "client CONNECT 200": 1, "server GET 200": 5, "server CONNECT 200": 1}
    wait_for(lambda: counts.counted() == expected, 5)
    assert counts.unparsed() == {}


def test_monitoring_continues_after_a_restart(containers: list[Container]) -> None:
    containers[1].restart(timeout=0)
    page = f"https://127.0.0.1:{NGINX}/"
    wait_for(lambda: containers[1].exec_run(["curl", "-skf", "-o", "/dev/null", page]).exit_code == 0)
    before = count(containers[1])

    def is_followed() -> bool:
        run(containers[1], "curl", "-sk", "-o", "/dev/null", page)
        return not {"server GET 200", "client GET 200"} - (count(containers[1]) - before).keys()

    wait_for(is_followed, 2)
    counts = Counts(containers[1])
    run(containers[1], "curl", "-sk", "-o", "/dev/null", f"{page}?[1-5]")
    counts.agrees("server", GET_200=5)
    counts.agrees("client", GET_200=5)


def test_plaintext_that_cannot_be_seen_is_reported(containers: list[Container], client: docker.DockerClient) -> None:
    counts = Counts(containers[0])
    run(containers[0], "curl", "-sk", "--http2", "-o", "/dev/null", f"https://127.0.0.1:{NGINX_2}/")
    assert counts.unparsed() == {"HTTP/2": 2}, "one at each end"
    run(containers[0], "python3", "-c", SEND_HELLO)
    wait_for(lambda: counts.unparsed() == {"HTTP/2": 2, "TLS": 1}, 5)
    status = next(one for one in agent_status()["targets"] if one["name"] == containers[0].name)
    assert any(
        "TLS" in warning and f": {unparsed(containers[0])['TLS']} (processes: " in warning and "python3" in warning
        for warning in status["warnings"]
    )
    assert any("HTTP/2" in warning for warning in status["warnings"])


def test_earlier_http_2_connections_are_reported(containers: list[Container]) -> None:
    container = containers[1]
    stop_monitoring(container=container.name)
    container.exec_run(["python3", "-c", JOINED], detach=True)
    wait_for(lambda: container.exec_run(["test", "-e", "/tmp/connected"]).exit_code == 0)
    start_monitoring(container=container.name)
    run(container, "touch", "/tmp/go-on")
    wait_for(lambda: unparsed(container) == {"HTTP/2": 2}, 5)
