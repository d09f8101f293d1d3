"""Monitoring and Prometheus start, report what they monitor and cost, and stop."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import docker
import pytest
from chaoslib.exceptions import ActivityFailed
from docker.models.containers import Container

from chaosorca.actions.faults import start_fault, stop_fault
from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.actions.prometheus import start_prometheus, stop_prometheus
from chaosorca.engine.agent import Agent
from chaosorca.engine.containers import find_container
from chaosorca.model.contract import AGENT
from tests.support.agent_state import scrape
from tests.support.engine_state import leftovers
from tests.support.waiting import wait_for
from tests.support.web import Web


def test_the_agent_reports_its_own_cost(web: Web) -> None:
    start_monitoring(container=web.name)
    assert web.get() == 200
    before = scrape()
    (faulted,) = start_fault(container=web.name, syscall="openat", error="EIO", probability=1e-9, injector="ptrace")["containers"]
    after = scrape()
    stop_fault(container=web.name)
    stop_monitoring(container=web.name)
    assert faulted["attached"] > 0
    assert 0 < before["chaosorca_agent_cpu_seconds_total"] < after["chaosorca_agent_cpu_seconds_total"] < 60
    assert 10e6 < before["chaosorca_agent_resident_bytes"] < 300e6
    assert 0 < after["chaosorca_agent_scrape_seconds"] < 1
    entries = {series for series, value in after.items() if series.startswith("chaosorca_agent_map_entries") and value > 0}
    assert {
        f'chaosorca_agent_map_entries{{map="{table}",program="{name}"}}'
        for name, table in (("syscalls", "calls"), ("http", "counts"))
    } <= entries
    dropped = {series: value for series, value in after.items() if series.startswith("chaosorca_agent_dropped_total")}
    assert dropped == {f'chaosorca_agent_dropped_total{{program="{name}"}}': 0 for name in ("syscalls", "http", "uprobe")}


def test_monitoring_by_label_starts_twice_and_stops_twice_without_harm(
    run_container: Callable[..., Container], client: docker.DockerClient
) -> None:
    value = str(time.monotonic_ns())
    label = f"orca-test={value}"
    names = sorted(run_container(["sleep", "60"], labels={"orca-test": value}).name for _ in range(2))
    for _ in range(2):
        assert [one["name"] for one in start_monitoring(label=label)] == names
    assert stop_monitoring(container=names[0]) == {"stopped": [names[0]]}
    assert client.containers.get(AGENT).status == "running"
    assert stop_monitoring(label=label) == {"stopped": [names[1]]}
    assert leftovers(client) == []
    assert stop_monitoring(label=label) == {"stopped": []}


def test_the_agent_is_started_once_with_named_capabilities_only(web: Web, client: docker.DockerClient) -> None:
    start_monitoring(container=web.name)
    first = client.containers.get(AGENT)
    start_monitoring(container=web.name, http=False)
    assert client.containers.get(AGENT).id == first.id
    host = first.attrs["HostConfig"]
    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    assert {name.removeprefix("CAP_") for name in host["CapAdd"]} == {
        "SYS_ADMIN",
        "SYS_PTRACE",
        "NET_ADMIN",
        "NET_RAW",
        "DAC_READ_SEARCH",
        "SYS_NICE",
    }
    assert not host["PortBindings"]
    assert list(first.attrs["NetworkSettings"]["Networks"]) == ["chaosorca"]
    assert client.images.get(first.attrs["Image"]).attrs["Size"] <= 150e6
    stop_monitoring(container=web.name)


def test_a_container_on_the_hosts_network_gets_a_warning(run_container: Callable[..., Container]) -> None:
    container = run_container(["sleep", "60"], network_mode="host")
    (result,) = start_monitoring(container=container.name)
    assert result["monitors"] == ["resources", "syscalls"]
    assert [warning for warning in result["warnings"] if "HTTP" in warning and "on the host's network" in warning] != []
    assert [warning for warning in result["warnings"] if "network figures" in warning] != []
    stop_monitoring(container=container.name)


def test_prometheus_keeps_its_data_only_if_it_is_asked_to(client: docker.DockerClient) -> None:
    first = start_prometheus(port="0")  # type: ignore[arg-type]  # as a configuration has it
    assert first["url"].startswith("http://127.0.0.1:")
    assert first["started"] is True
    assert start_prometheus(port=0) == {"url": first["url"], "started": False}
    (port,) = client.containers.get("chaosorca-prometheus").attrs["HostConfig"]["PortBindings"]["9090/tcp"]
    assert port["HostIp"] == "127.0.0.1"
    assert stop_prometheus(keep_data="true") == {"stopped": True}  # type: ignore[arg-type]
    assert leftovers(client) == ["volume chaosorca-prometheus-data"]
    assert stop_prometheus() == {"stopped": False}
    assert leftovers(client) == []


def test_an_agent_of_another_version_is_replaced_only_when_it_is_idle(web: Web, client: docker.DockerClient) -> None:
    start_monitoring(container=web.name)
    agent = client.containers.get(AGENT)
    host = agent.attrs["HostConfig"]
    source = f"FROM {agent.attrs['Config']['Image']}\nLABEL other=version\n"
    other, _ = client.images.build(fileobj=io.BytesIO(source.encode()), tag="chaosorca-test-agent", rm=True)
    stop_monitoring(container=web.name)

    def start_other() -> Container:
        return client.containers.run(
            "chaosorca-test-agent",
            name=AGENT,
            detach=True,
            labels={"chaosorca.role": "agent"},
            pid_mode="host",
            cgroupns="host",
            cap_drop=["ALL"],
            cap_add=host["CapAdd"],
            security_opt=["seccomp=unconfined"],
            volumes={"/sys/fs/cgroup": {"bind": "/host/cgroup", "mode": "ro"}},
        )

    idle = start_other()
    wait_for(lambda: b"ready" in idle.logs())
    start_monitoring(container=web.name)
    assert client.containers.get(AGENT).id != idle.id
    stop_monitoring(container=web.name)

    busy = start_other()
    wait_for(lambda: b"ready" in busy.logs())
    Agent(busy).ask("start_monitoring", container=find_container(client, web.name).to_json(), monitors=["resources"])
    with pytest.raises(ActivityFailed, match=r"an agent of another version .* is busy"):
        start_monitoring(container=web.name)
    assert client.containers.get(AGENT).id == busy.id
    assert stop_monitoring(container=web.name) == {"stopped": [web.name]}
    client.images.remove(other.id, force=True)
