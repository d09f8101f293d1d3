"""Containers that are removed and re-created under the same name, as `docker compose up` and deployments do."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import docker
import docker.errors
import pytest
from docker.models.containers import Container

from chaosorca.actions.faults import start_fault, stop_all_faults, stop_fault
from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.metrics.measure import wait_for_scrapes
from chaosorca.metrics.query import Series
from chaosorca.probes.faults import fault_active
from chaosorca.sources import open_prometheus
from tests.support.agent_state import agent_status
from tests.support.proxy import Proxy
from tests.support.waiting import becomes, wait_for
from tests.support.web import PAGE, Web


@pytest.fixture
def run_container(client: docker.DockerClient, image: str) -> Iterator[Callable[..., Container]]:
    """A function that starts a container; after the test the containers with these names are removed."""
    names: set[str] = set()

    def run(command: Any = None, **options: Any) -> Container:
        options.setdefault("name", f"orca-recreated-{time.monotonic_ns() % 10**9}")
        names.add(options["name"])
        return client.containers.run(image, command, detach=True, **options)

    yield run
    for name in names:
        with contextlib.suppress(docker.errors.NotFound):
            client.containers.get(name).remove(force=True, v=True)


@pytest.fixture
def recreate(run_container: Callable[..., Container]) -> Callable[..., None]:
    """A function that removes a container, and runs another one with its name and port."""

    def run_again(web: Web, **options: Any) -> None:
        name, port = web.name, int(web.url.rstrip("/").rpartition(":")[2])
        web.container.remove(force=True)
        web.container = run_container(name=name, ports={"80/tcp": ("127.0.0.1", port)}, **options)

    return run_again


def counters(name: str) -> list[Series]:
    """Return all system call counters of a container from Prometheus."""
    return open_prometheus(None).samples(f'chaosorca_syscalls_total{{job="chaosorca",container="{name}"}}', 300)


def follows() -> str:
    return str(agent_status()["follows"])


def test_monitoring_and_the_fault_continue(monitored: Web, recreate: Callable[..., None]) -> None:
    assert follows() == "names"
    started = start_fault(container=monitored.name, syscall="openat", error="EACCES", path=PAGE)
    assert started["warnings"] == []
    assert monitored.get() == 403
    wait_for_scrapes(open_prometheus(None), [monitored.name], 2)
    before = {tuple(sorted(one.labels.items())): one.samples[-1][1] for one in counters(monitored.name)}
    for _ in range(2):
        recreate(monitored)
        wait_for(monitored.get)
        assert wait_for(lambda: monitored.get() == 403, 5) < 2
    assert fault_active(monitored.container.short_id) is True
    wait_for_scrapes(open_prometheus(None), [monitored.name], 3)
    after = counters(monitored.name)
    for one in after:
        values = [value for _at, value in one.samples]
        assert values == sorted(values), one.labels
    total = sum(one.samples[-1][1] for one in after)
    assert {tuple(sorted(one.labels.items())) for one in after} >= set(before)
    assert total > sum(before.values()) > 0

    (stopped,) = stop_fault(container=monitored.name)["stopped"]
    assert stopped["fault"] == started["fault"]
    assert stopped["container_id"] == monitored.container.id
    assert monitored.get() == 200
    assert monitored.tracers() == {0}


def test_a_container_that_takes_the_name_gets_the_fault(
    web: Web, client: docker.DockerClient, run_container: Callable[..., Container]
) -> None:
    start_fault(container=web.name, syscall="openat", error="EACCES")
    name = web.name
    following = run_container(name=f"{name}-next", ports={"80/tcp": ("127.0.0.1", None)})
    following.reload()
    port = following.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    web = Web(following, f"http://127.0.0.1:{port}/")
    wait_for(lambda: web.get() == 200)
    client.containers.get(name).remove(force=True)
    assert web.get() == 200
    following.rename(name)
    assert wait_for(lambda: web.get() == 403, 5) < 2
    stop_all_faults()
    assert web.get() == 200


def test_a_protected_container_of_the_same_name_gets_nothing(web: Web, recreate: Callable[..., None]) -> None:
    start_monitoring(container=web.name)
    started = start_fault(container=web.name, syscall="openat", error="EACCES")
    recreate(web, labels={"chaosorca.protected": "true"})
    wait_for(web.get)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        assert web.get() == 200
        assert web.tracers() == {0}
    (target,) = agent_status()["targets"]
    assert target["running"] is False
    assert [one["fault"] for one in stop_fault(container=web.name)["stopped"]] == [started["fault"]]
    assert stop_monitoring(container=web.name) == {"stopped": [web.name]}


def test_lost_engine_events_are_resumed_without_a_gap(web: Web, recreate: Callable[..., None], proxy: Proxy) -> None:
    (result,) = start_monitoring(container=web.name, configuration=proxy.configuration)
    assert result["warnings"] == []
    assert follows() == "names"
    proxy.refuses = True
    proxy.hang_up()
    wait_for(lambda: follows() == "ids only")
    started = start_fault(container=web.name, syscall="openat", error="EACCES", path=PAGE)
    (warning,) = started["warnings"]
    assert warning.startswith(f"{web.name}: it will not be followed when it is re-created under its name: ")
    recreate(web)
    wait_for(lambda: web.get() == 200)
    proxy.refuses = False
    assert wait_for(lambda: web.get() == 403, 5) < 2
    becomes(follows, "names")
    stop_fault(container=web.name)
    assert web.get() == 200
    assert stop_monitoring(container=web.name) == {"stopped": [web.name]}


def test_without_the_engines_socket_a_warning_names_the_limit(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaosorca.engine.agent._sockets", lambda _: ["/nonexistent/docker.sock", None])
    reason = "the engine's socket is not mounted into the agent"
    (result,) = start_monitoring(container=web.name)
    assert result["warnings"] == [f"it will not be followed when it is re-created under its name: {reason}"]
    status = agent_status()
    assert (status["follows"], status["follows_reason"]) == ("ids only", reason)
    assert start_fault(container=web.name, syscall="openat", error="EACCES", duration="10s")["warnings"] == [
        f"{web.name}: {result['warnings'][0]}"
    ]
    stop_fault(container=web.name)
    stop_monitoring(container=web.name)
