"""Metrics of real containers in Prometheus, compared with what happened in them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import docker
import pytest
from chaoslib.exceptions import ActivityFailed
from docker.models.containers import Container

from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.actions.prometheus import start_prometheus, stop_prometheus
from chaosorca.engine.command import run_command
from chaosorca.metrics.measure import wait_for_scrapes
from chaosorca.metrics.tables import Table, read_table
from chaosorca.probes.http import error_ratio, latency, request_rate
from chaosorca.probes.resources import cpu_usage, io_rate, memory_usage, network_receive_rate, network_transmit_rate
from chaosorca.probes.syscalls import syscall_latency, syscall_rate
from chaosorca.sources import open_prometheus
from tests.support.agent_state import scrape
from tests.support.waiting import wait_for
from tests.support.web import Web

pytestmark = pytest.mark.usefixtures("one_agent_for_all")


@pytest.fixture(scope="module")
def prometheus(one_agent_for_all: None, client: docker.DockerClient, image: str) -> Iterator[None]:
    """A Prometheus for all tests, and an agent that stays because it monitors a container of this fixture."""
    start_prometheus(port=0)
    keeps = client.containers.run(image, ["sleep", "infinity"], name=f"orca-keeps-{time.monotonic_ns() % 10**9}", detach=True)
    try:
        start_monitoring(container=keeps.name)
        yield
        stop_monitoring(container=keeps.name)
    finally:
        keeps.remove(force=True, v=True)
        stop_prometheus()


@pytest.fixture
def monitored(prometheus: None, web: Web) -> Iterator[Web]:
    """An nginx that is monitored."""
    start_monitoring(container=web.name)
    wait_for_scrapes(open_prometheus(None), [web.name], 2)
    yield web
    stop_monitoring(container=web.name)


def table(name: str, metric: str) -> Table:
    """Return a metric after everything up to now was scraped."""
    prometheus = open_prometheus(None)
    wait_for_scrapes(prometheus, [name], 3)
    now = time.time()
    return read_table(prometheus, name, metric, now - 120, now)


def total(of: Table, column: str) -> float:
    """Return the totals: rates times the time between the rows."""
    gaps = [later - earlier for earlier, later in zip(of.times, of.times[1:], strict=False)]
    return sum((value or 0.0) * gap for value, gap in zip(of.columns[column][1:], gaps, strict=True))


def exchange(url: str, *requests: bytes) -> bytes:
    """Send texts on one connection, each after the answer to the previous one; return everything received."""
    address = urlsplit(url)
    received = b""
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        for request in requests:
            connection.sendall(request)
            received += connection.recv(65536)
    return received


def test_requests_of_a_code_never_seen_before_are_all_in_the_csv(monitored: Web) -> None:
    assert [monitored.get("nothing-here") for _ in range(27)] == [404] * 27
    http = table(monitored.name, "http")
    assert total(http, "404") == pytest.approx(27, abs=1e-3)


def test_requests_are_counted_by_code_over_one_and_over_many_connections(monitored: Web) -> None:
    keep = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert exchange(monitored.url, *[keep] * 10).count(b"HTTP/1.1 200") == 10
    assert exchange(monitored.url, b"HEAD /no HTTP/1.1\r\nHost: x\r\n\r\n", b"BREW / HTTP/1.1\r\n\r\n").count(b"HTTP/1.1") == 2
    for _ in range(5):
        assert monitored.get() == 200
    threads = [threading.Thread(target=lambda: [monitored.get() for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    http = table(monitored.name, "http")
    assert total(http, "200") == pytest.approx(95, abs=1e-3)
    assert total(http, "404") == pytest.approx(1, abs=1e-3)


def test_a_request_that_is_never_answered_is_counted_as_none(monitored: Web, run_container: Callable[..., Container]) -> None:
    script = r"""
        use Socket; socket(S, PF_INET, SOCK_STREAM, 0); setsockopt(S, SOL_SOCKET, SO_REUSEADDR, 1);
        bind(S, sockaddr_in(8000, INADDR_ANY)); listen(S, 10);
        while (accept(C, S)) { sysread(C, $b, 4096); close(C); }
    """
    silent = run_container(["perl", "-e", script], ports={"8000/tcp": ("127.0.0.1", None)})
    silent.reload()
    url = f"http://127.0.0.1:{silent.attrs['NetworkSettings']['Ports']['8000/tcp'][0]['HostPort']}/"
    start_monitoring(container=silent.name)
    wait_for_scrapes(open_prometheus(None), [silent.name], 2)
    web = Web(silent, url)
    assert [web.get() for _ in range(7)] == [0] * 7
    assert total(table(silent.name, "http"), "none") == pytest.approx(7, abs=1e-3)
    assert request_rate(silent.name, status="none") > 0
    assert error_ratio(silent.name) == 1.0
    stop_monitoring(container=silent.name)


def test_a_container_is_monitored_as_a_client_too(monitored: Web, run_container: Callable[..., Container]) -> None:
    address = monitored.container.attrs["NetworkSettings"]["IPAddress"]
    script = f"""
        use IO::Socket::INET; sleep 3;
        for (1..6) {{ $s = IO::Socket::INET->new("{address}:80"); print $s "GET /no HTTP/1.0\\r\\n\\r\\n"; while (<$s>) {{}} }}
        sleep 60;
    """
    caller = run_container(["perl", "-e", script])
    start_monitoring(container=caller.name)
    wait_for_scrapes(open_prometheus(None), [caller.name], 5)
    assert total(table(caller.name, "http"), "client:404") == pytest.approx(6, abs=1e-3)
    assert request_rate(caller.name, status="4xx", role="client") > 0
    assert request_rate(caller.name) == 0.0
    stop_monitoring(container=caller.name)


def test_system_calls_are_counted_exactly(monitored: Web) -> None:
    # Each getppid of perl is one system call; chmod of a missing file fails with ENOENT.
    script = 'for (1..20000) { getppid() } for (1..300) { chmod(0644, "/no/such/file") }'
    assert monitored.container.exec_run(["perl", "-e", script]).exit_code == 0
    calls = table(monitored.name, "syscall")
    assert total(calls, "getppid") == pytest.approx(20000, abs=1)
    chmods = [name for name in calls.columns if name in ("chmod", "fchmodat")]
    assert [total(calls, name) for name in chmods] == [pytest.approx(300, abs=0.1)]
    assert total(calls, f"{chmods[0]}:ENOENT") == pytest.approx(300, abs=0.1)
    assert syscall_rate(monitored.name, syscall="getppid", window="60s") > 0
    assert syscall_rate(monitored.name, syscall=chmods[0], error="ENOENT", window="60s") > 0
    assert syscall_rate(monitored.name, syscall=chmods[0], error="EIO", window="60s") == 0.0


def test_a_direct_write_of_64_mib_is_64_mib_of_io(monitored: Web) -> None:
    written = run_command(monitored.container, ["dd", "if=/dev/zero", "of=/file", "bs=1M", "count=64", "oflag=direct"])
    assert written.exit_code == 0, written
    assert total(table(monitored.name, "io"), "write") == pytest.approx(64 * 2**20, rel=0.01)
    series = scrape()
    assert 64 <= series[f'container_fs_writes_total{{name="{monitored.name}"}}'] < 1000, (
        "dd has ended, and its writes are still counted"
    )
    assert series[f'container_fs_reads_total{{name="{monitored.name}"}}'] > 0
    (source,) = [one for one in series if one.startswith(f'chaosorca_io_source{{container="{monitored.name}"')]
    assert source.split('"')[3] in ("blkio", "io.stat", "/proc/PID/io")


def test_processor_memory_and_network_are_those_of_the_container(monitored: Web) -> None:
    busy = "$end = time + 4; 1 while time < $end; ($user, $system) = times; print $user + $system"
    spent = float(run_command(monitored.container, ["perl", "-e", busy]).output)
    assert 0.5 * spent / 15 < cpu_usage(monitored.name) < 1.3
    body = 615  # nginx's page
    times = []
    for _ in range(50):
        began = time.monotonic()
        monitored.get()
        times.append(time.monotonic() - began)
    wait_for_scrapes(open_prometheus(None), [monitored.name], 2)
    assert 0.9 * spent < total(table(monitored.name, "cpu"), "cores") < spent + 0.5
    assert 50 * body < total(table(monitored.name, "nets"), "bytes") < 50 * 4 * body
    as_text: Any = "0.5"  # as a configuration has it
    assert 0.0 < latency(monitored.name, quantile=as_text) <= latency(monitored.name, quantile=0.99) <= max(0.1, 2 * max(times))
    assert 0.0 < syscall_latency(monitored.name, "openat") < 0.1
    with pytest.raises(ActivityFailed, match="no such call ended in it"):
        syscall_latency(monitored.name, "mount")
    with pytest.raises(ActivityFailed, match="no request was answered in it"):
        latency(monitored.name, role="client")
    assert network_receive_rate(monitored.name) > 0
    assert network_transmit_rate(monitored.name) > network_receive_rate(monitored.name)
    assert io_rate(monitored.name) >= 0
    assert memory_usage(monitored.name) > 10**6
    (memory,) = {value is not None and 10**6 < value < 10**9 for value in table(monitored.name, "mem").columns["bytes"]}
    assert memory


def test_idle_metrics_are_zero_and_unmonitored_ones_an_error(monitored: Web, run_container: Callable[..., Container]) -> None:
    assert monitored.get() == 200
    wait_for(lambda: request_rate(monitored.name, status="200") > 0)
    assert request_rate(monitored.name, status="403") == 0.0
    assert request_rate(monitored.container.short_id, status="4xx,5xx,none") == 0.0
    assert error_ratio(monitored.name) == 0.0
    assert isinstance(syscall_rate(monitored.name), float)
    with pytest.raises(ActivityFailed, match="a ratio needs at least one request"):
        error_ratio(monitored.name, role="client")

    unmonitored = run_container(["sleep", "60"])
    with pytest.raises(ActivityFailed, match=f"the http monitor is not attached to container '{unmonitored.name}'"):
        request_rate(unmonitored.name)
    start_monitoring(container=unmonitored.name, http=False)
    wait_for_scrapes(open_prometheus(None), [unmonitored.name], 2)
    assert cpu_usage(unmonitored.name) >= 0.0
    with pytest.raises(ActivityFailed, match="the http monitor is not attached"):
        request_rate(unmonitored.name)
    stop_monitoring(container=unmonitored.name)
    time.sleep(3.5)
    with pytest.raises(ActivityFailed, match=r"is stale, without a sample for \d\.\d s or 3 scrapes"):
        cpu_usage(unmonitored.name)


def test_a_restarted_container_is_still_monitored(monitored: Web) -> None:
    assert [monitored.get() for _ in range(50)] == [200] * 50
    monitored.container.restart(timeout=1)
    monitored.container.reload()
    port = monitored.container.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    monitored.url = f"http://127.0.0.1:{port}/"
    wait_for(lambda: monitored.get() == 200)
    time.sleep(3)  # the agent has found it, and scrapes contain it
    assert [monitored.get("after") for _ in range(9)] == [404] * 9
    http = table(monitored.name, "http")
    assert total(http, "404") == pytest.approx(9, abs=1e-3)
    assert total(http, "200") < 60, "counts from before the restart are not repeated"
