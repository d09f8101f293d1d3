"""HTTP figures of real servers, compared with their own logs: every request is counted once, with its code."""

from __future__ import annotations

import functools
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import docker
import pytest
from docker.models.containers import Container

from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.agent.histogram import SLOT_BOUNDS
from tests.support.http_servers import BODY, GET, PYTHON, address, ask, figures, in_flight, is_answered, run
from tests.support.project import ROOT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("one_agent_for_all")


@pytest.fixture(scope="module")
def servers(client: docker.DockerClient, image: str) -> Iterator[list[Container]]:
    """Two monitored containers with both servers each; the second one acts as a client."""
    folder = ROOT / "tests" / "integration" / "http"
    client.images.build(path=str(folder), tag="chaosorca-test-http", rm=True, buildargs={"NGINX": image})
    ipv6 = {f"net.ipv6.conf.{device}.disable_ipv6": 0 for device in ("all", "lo")}
    started = [
        client.containers.run("chaosorca-test-http", name=f"orca-test-http-{role}", detach=True, sysctls=ipv6)
        for role in ("server", "client")
    ]
    try:
        for one in started:
            wait_for(functools.partial(is_answered, one, f"http://127.0.0.1:{PYTHON}/code/200"))
            start_monitoring(container=one.name)
        yield started
        for one in started:
            stop_monitoring(container=one.name)
    finally:
        for one in started:
            one.remove(force=True, v=True)


class Counts:
    """What happens from now on, by the kernel's count and by the servers' logs."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._counted = self._count()
        self._logged = self._log()
        self._unparsed = self._left_out()

    def counted(self) -> dict[str, int]:
        """Return the counted requests by role, method and code."""
        return {" ".join(key): count for key, count in (self._count() - self._counted).items()}

    def logged(self) -> dict[str, int]:
        """Return the same from the servers' logs."""
        return {f"server {key}": count for key, count in (self._log() - self._logged).items()}

    def unparsed(self) -> dict[str, int]:
        """Return the number of unparsed connections and answers by reason."""
        return {reason: count for (reason,), count in (self._left_out() - self._unparsed).items()}

    def _count(self) -> Counter[tuple[str, ...]]:
        return figures(self._container, "chaosorca_http_requests_total", "role", "method", "code")

    def _left_out(self) -> Counter[tuple[str, ...]]:
        return figures(self._container, "chaosorca_http_unparsed_total", "reason")

    def _log(self) -> Counter[str]:
        return Counter(run(self._container, "sh", "-c", "cat /tmp/nginx.log /tmp/python.log").splitlines())


def agree(counts: Counts, **expected: int) -> None:
    """Assert that count and logs agree with the expected numbers by method and code, and that nothing was left out."""
    wait_for(lambda: counts.logged() == counts.counted(), 5)
    assert counts.counted() == {f"server {what.replace('_', ' ')}": count for what, count in expected.items()}
    assert counts.unparsed() == {}


def agree_but_for_overtaken(client: Counts, answered: int) -> None:
    """Assert that a client of another container has counted all answers, or reported each missing one once.

    Packets between containers sometimes overtake each other, when a sender changes its processor. Requests do not here, because
    there is only one at a time. An answer that is lost in this way is counted as reordered.
    """
    unparsed = client.unparsed()
    lost = unparsed.pop("reordered", 0)
    assert lost <= 16
    assert client.counted() == {"client GET 200": answered - lost}
    assert unparsed == {}


def test_a_hundred_thousand_requests_on_connections_that_are_kept(servers: list[Container]) -> None:
    counts = Counts(servers[0])
    page, busy = GET.format("/"), GET.format("/busy")
    ask(servers[0], page * 7 + busy, answers=1, end="</html>", times=3000, connections=4)
    ask(servers[0], page, end=BODY, times=2000, connections=2)
    agree(counts, GET_200=88_000, GET_503=12_000)


def test_wrk_with_and_without_pipelining(servers: list[Container]) -> None:
    counts = Counts(servers[0])
    for more in ([], ["-s", "/pipeline.lua"]):
        run(servers[0], "wrk", "-t1", "-c16", "-d1", *more, "http://127.0.0.1:80/")
    before = None
    while (now := (counts.counted(), counts.logged())) != before:  # nginx still answers requests that wrk has abandoned
        before = now
        time.sleep(0.5)
    counted, logged = now
    ended_by_wrk = counted.pop("server GET none", 0)
    assert ended_by_wrk <= 16 * 9
    assert sum(logged.values()) > 1000
    assert counted.keys() == logged.keys() == {"server GET 200", "server GET 404"}
    assert all(abs(counted[what] - logged[what]) <= ended_by_wrk for what in logged), (
        "except for requests that wrk abandons at its end"
    )


def test_curl_over_ipv4_and_ipv6(servers: list[Container]) -> None:
    counts = Counts(servers[0])
    run(servers[0], "curl", "-s", "-o", "/dev/null", "http://127.0.0.1/?[1-50]")
    run(servers[0], "curl", "-s", "-g", *["http://[::1]/large", "-o", "/dev/null"] * 20, "http://[::1]/busy")
    run(servers[0], "curl", "-s", "-I", "http://127.0.0.1/?[1-5]")
    run(servers[0], "curl", "-s", "-o", "/dev/null", "-d", "x" * 100, "http://127.0.0.1/[1-3]")
    agree(counts, GET_200=70, GET_503=1, HEAD_200=5, POST_404=3)


def test_answers_of_all_kinds_byte_by_byte(servers: list[Container]) -> None:
    counts = Counts(servers[0])
    kinds = ["code/204", "code/304", "chunked", "code/500", "code/404"]
    head = "HEAD /code/200 HTTP/1.1\r\nHost: x\r\n\r\n"
    upload = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\nGET / HTTP/1"
    closing = "GET /until-closed HTTP/1.1\r\nHost: x\r\n\r\n"
    everything = "".join(GET.format(f"/{kind}") for kind in kinds) + head + upload + closing
    ask(servers[0], everything, port=PYTHON, rest=True, cut=1)
    ask(servers[0], everything, port=PYTHON, rest=True)
    agree(counts, GET_204=2, GET_304=2, GET_200=4, GET_500=2, GET_404=2, HEAD_200=2, POST_201=2)


def test_100_continue_and_a_large_upload(servers: list[Container]) -> None:
    counts = Counts(servers[0])
    data = ["--data-binary", "@/pages/large", "-H", "Expect: 100-continue", "-s", "-o", "/dev/null"]
    run(servers[0], "curl", *data, "http://127.0.0.1:8000/", "http://127.0.0.1:8000/")
    agree(counts, POST_201=2)


@pytest.mark.parametrize("together", [8, 16, 32])
def test_many_requests_in_one_packet(servers: list[Container], together: int) -> None:
    counts = Counts(servers[0])
    ask(servers[0], GET.format("/") * (together - 1) + GET.format("/nothing-here"), answers=1, end="</html>", times=20)
    agree(counts, GET_200=20 * (together - 1), GET_404=20)


def test_requests_without_an_answer(servers: list[Container]) -> None:
    counts = Counts(servers[0])
    for _ in range(3):
        ask(servers[0], GET.format("/silent"), port=PYTHON, rest=True)
        ask(servers[0], GET.format("/reset"), port=PYTHON, rest=True)
    wait_for(lambda: counts.counted() == {"server GET none": 6}, 5)
    assert counts.logged() == {}
    assert in_flight(servers[0]) == {"server": 0, "client": 0}


def test_a_request_is_in_flight_until_it_is_answered(servers: list[Container]) -> None:
    server, client = servers
    with ThreadPoolExecutor() as pool:
        over = pool.submit(ask, client, GET.format("/slow/2000"), host=address(server), port=PYTHON, end="hello")
        wait_for(lambda: in_flight(server) == {"server": 1, "client": 0} and in_flight(client) == {"server": 0, "client": 1}, 5)
        assert not over.done()
        over.result()
    assert in_flight(server) == in_flight(client) == {"server": 0, "client": 0}


def test_both_ends_are_counted_each_in_its_role(servers: list[Container]) -> None:
    server, client = Counts(servers[0]), Counts(servers[1])
    pages = GET.format("/large") + GET.format("/") * 7
    ask(servers[1], pages, host=address(servers[0]), end=BODY, answers=7, times=100, connections=2)
    agree(server, GET_200=1600)
    agree_but_for_overtaken(client, 1600)


def test_a_container_without_a_network(servers: list[Container], run_container: Callable[..., Container]) -> None:
    alone = run_container(image=servers[0].image.id, network_mode="none")
    wait_for(lambda: alone.exec_run(["curl", "-sf", "http://127.0.0.1:8000/code/200"]).exit_code == 0)
    (result,) = start_monitoring(container=alone.name)
    try:
        assert result["warnings"] == []
        assert result["monitors"] == ["http", "resources", "syscalls"]
        counts = Counts(alone)
        run(alone, "curl", "-s", "-o", "/dev/null", "http://127.0.0.1/")
        agree(counts, GET_200=1)
    finally:
        stop_monitoring(container=alone.name)


def test_a_network_is_connected_and_disconnected_under_monitoring(servers: list[Container], client: docker.DockerClient) -> None:
    def listening() -> list[int]:
        """Return the number of packet sockets in each network namespace; the agent has one on each device."""
        return [len(run(one, "cat", "/proc/net/packet").splitlines()) - 1 for one in servers]

    before = listening()
    network = client.networks.create(f"orca-test-{time.monotonic_ns() % 10**9}")
    try:
        for one in servers:
            network.connect(one)
        wait_for(lambda: listening() == [number + 1 for number in before], 5)
        server, caller = (Counts(one) for one in servers)
        run(servers[1], "curl", "-s", "-o", "/dev/null", f"http://{address(servers[0], network.name)}/?[1-5]")
        agree(server, GET_200=5)
        agree_but_for_overtaken(caller, 5)
    finally:
        for one in servers:
            network.disconnect(one, force=True)
        network.remove()
    wait_for(lambda: listening() == before, 5)
    run(servers[0], "curl", "-s", "-o", "/dev/null", "http://127.0.0.1/")
    agree(server, GET_200=6)


def test_latencies_are_those_of_the_client(servers: list[Container]) -> None:
    metric = "chaosorca_http_request_duration_seconds_bucket"
    before = figures(servers[0], metric, "role", "le")
    times = [1] * 30 + [4] * 30 + [30] * 10
    latencies = ask(servers[0], *(GET.format(f"/slow/{ms}") for ms in times), port=PYTHON, end="hello")
    after = figures(servers[0], metric, "role", "le")
    counts = [after["server", str(bound)] - before["server", str(bound)] for bound in SLOT_BOUNDS]
    assert counts[-1] == len(times)
    for quantile in (0.1, 0.5, 0.95):  # not the longest, for which the client may have waited for its processor
        of_kernel = next(slot for slot, count in enumerate(counts) if count >= quantile * len(times))
        of_client = bisect_left(SLOT_BOUNDS, sorted(latencies)[int(quantile * len(latencies))])
        assert abs(of_kernel - of_client) <= 1, (quantile, of_kernel, of_client)
