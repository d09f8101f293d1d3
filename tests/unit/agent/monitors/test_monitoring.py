"""The monitoring of a container, with monitors that attach to nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.agent.monitors.io_source import PROC, IoSource
from chaosorca.agent.monitors.monitoring import Monitoring
from chaosorca.agent.monitors.resources import ResourceMonitor
from chaosorca.agent.targets.target import Target
from chaosorca.model.errors import AgentError

NO_HTTP = "the eBPF program 'http' cannot be loaded: Invalid argument"
NO_CALLS = "the eBPF program 'syscalls_plain' cannot be loaded: Operation not permitted"
NO_EVENTS = "system calls cannot be counted: this kernel lets no program see them (Operation not permitted)"
LOST = "the IO of a `docker exec` process is lost when the process ends: "


class Monitor:
    """A monitor that attaches to nothing, and can be refused."""

    def __init__(self) -> None:
        self.unprepared = self.refused = ""
        self.attached: dict[str, Any] = {}
        self.timing: list[tuple[Any, ...]] = []
        self.asked = 0
        self.io_of_ended_threads = True

    def prepare(self) -> None:
        self.asked += 1
        if self.unprepared:
            raise AgentError(self.unprepared)

    def attach(self, target: Target, **options: Any) -> None:
        self.prepare()
        self.attached[target.name] = options
        if self.refused and options.get("counting", True):
            raise AgentError(self.refused)

    def suspend(self, name: str) -> None:
        self.attached[name] = "suspended"

    def detach(self, name: str) -> None:
        self.attached.pop(name, None)

    def program(self) -> Any:
        return None if self.unprepared else self

    def ended_io(self) -> dict[str, Any]:
        return dict(self.attached) if self.io_of_ended_threads else {}

    def warnings(self, name: str) -> list[str]:
        return []

    def leave_timing_to_tracer(self, *given: Any) -> None:
        self.timing.append(given)


class Host:
    """A monitoring with two such monitors, and a container."""

    def __init__(self, group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        group.mkdir()
        for name, text in (("cgroup.procs", "10\n"), ("cpu.stat", "usage_usec 1\n"), ("memory.current", "1\n")):
            (group / name).write_text(text)
        self.group = group
        self.target = self.found()
        self.calls, self.http = Monitor(), Monitor()
        self.resources = ResourceMonitor(self.calls.ended_io)
        self.monitoring = Monitoring(self.calls, self.http, self.resources)  # type: ignore[arg-type]
        monkeypatch.setattr(self.resources, "io_source", lambda: IoSource(PROC, ""))

    def found(self) -> Target:
        """Return the container as it is found now."""
        return Target("web", "1" * 64, Cgroup({}, self.group), proc=self.group)

    def monitor(self, *monitors: str) -> tuple[list[str], list[str]]:
        """Start monitoring; return the monitors and the warnings."""
        self.target = self.found()
        started = self.monitoring.start(self.target, list(monitors))
        return started["monitors"], started["warnings"]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path / "group", monkeypatch)


def test_all_monitors_of_a_container(host: Host) -> None:
    assert host.monitor("syscalls", "http", "resources") == (["http", "resources", "syscalls"], [])


def test_without_http_the_other_monitors_are_attached(host: Host) -> None:
    host.http.unprepared = NO_HTTP
    assert host.monitor("syscalls", "http") == (["syscalls"], [NO_HTTP])


@pytest.mark.parametrize(("unprepared", "refused"), [(NO_CALLS, ""), ("", NO_EVENTS)])
def test_without_system_calls_the_other_monitors_are_attached(host: Host, unprepared: str, refused: str) -> None:
    host.calls.unprepared, host.calls.refused = unprepared, refused
    lost = [LOST + unprepared] * bool(unprepared)
    assert host.monitor("syscalls", "http", "resources") == (["http", "resources"], [unprepared or refused, *lost])


def test_resources_alone_need_no_program(host: Host) -> None:
    host.calls.unprepared = NO_CALLS
    assert host.monitor("resources") == (["resources"], [LOST + NO_CALLS])
    asked = host.calls.asked
    host.monitoring._follow(host.target)
    assert host.calls.asked == asked, "a refused program is not loaded again in each round"


def test_io_that_is_lost_without_btf_is_a_warning(host: Host) -> None:
    host.calls.io_of_ended_threads = False
    assert host.monitor("resources", "syscalls") == (["resources", "syscalls"], [f"{LOST}this kernel has no BTF"])


def test_nothing_is_lost_where_the_control_group_counts(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.calls.io_of_ended_threads = False
    (host.group / "io.stat").write_text("")
    monkeypatch.setattr(host.resources, "io_source", lambda: IoSource("io.stat", ""))
    assert host.monitor("resources") == (["resources"], [])


def test_a_resource_without_a_figure_is_a_warning(host: Host) -> None:
    (host.group / "memory.current").unlink()
    monitors, (warning,) = host.monitor("resources")
    assert monitors == ["resources"]
    assert warning.startswith("its memory in use cannot be read and is left out: ")


@pytest.mark.parametrize(
    ("monitors", "says"), [(["http"], NO_HTTP), (["syscalls"], NO_CALLS), (["syscalls", "http"], f"{NO_CALLS}; {NO_HTTP}")]
)
def test_no_monitor_at_all_is_an_error(host: Host, monitors: list[str], says: str) -> None:
    host.http.unprepared, host.calls.unprepared = NO_HTTP, NO_CALLS
    with pytest.raises(AgentError, match=f"^{re.escape(says)}$"):
        host.monitor(*monitors)
    assert host.monitoring.targets() == []
    assert host.monitoring.monitors() == host.http.attached == {}
    assert host.monitor("resources")[0] == ["resources"]
    with pytest.raises(AgentError, match=f"^{re.escape(says)}$"):
        host.monitor(*monitors)
    assert host.monitoring.monitors() == {"web": {"resources"}}, "earlier monitors stay"


@pytest.mark.parametrize("on_host", [False, True])
def test_a_monitor_refused_after_a_restart_is_reported_and_retried(host: Host, on_host: bool) -> None:
    """HTTP of a container that now uses the host's network is not retried."""
    host.monitor("syscalls", "http")
    target = host.target
    host.http.refused, host.calls.refused = NO_HTTP, NO_EVENTS
    target.host_network = on_host

    def reported() -> tuple[list[str], list[str]]:
        (one,) = host.monitoring.status()
        return one["monitors"], sorted(one["warnings"])

    for _ in range(3):
        host.monitoring._follow(target)
    assert reported() == (["syscalls"] if on_host else ["http", "syscalls"], sorted([NO_HTTP, NO_EVENTS]))
    host.http.refused = host.calls.refused = ""
    host.monitoring._follow(target)
    assert reported() == ((["syscalls"], [NO_HTTP]) if on_host else (["http", "syscalls"], []))


def test_a_container_that_has_ended_is_suspended_until_it_restarts(host: Host) -> None:
    host.monitor("syscalls", "http", "resources")
    target = host.target
    host.group.rename(host.group.parent / "ended")
    host.monitoring._follow(target)
    assert host.calls.attached == host.http.attached == {"web": "suspended"}
    assert host.monitoring.status()[0]["monitors"] == ["http", "resources", "syscalls"]
    (host.group.parent / "ended").rename(host.group)
    host.monitoring._follow(target)
    assert (host.calls.attached, host.http.attached) == ({"web": {"counting": True}}, {"web": {}})


def test_timing_left_to_the_tracer_outlasts_the_monitoring(host: Host) -> None:
    host.monitoring.leave_timing_to_tracer("web", ("read",), True)
    host.monitor("syscalls")
    assert host.calls.timing == [("web", ("read",), True)] * 2
    host.monitoring.leave_timing_to_tracer("web", (), False)
    host.monitoring.stop("web")
    host.monitor("syscalls")
    assert host.calls.timing[-1] == ("web", (), False)


def test_a_recreated_container_keeps_its_monitors(host: Host) -> None:
    host.monitor("syscalls")
    new = Target("web", "2" * 64, Cgroup({}, host.group), proc=host.group)
    host.monitoring.replace_target(new)
    host.monitoring.replace_target(Target("other", "3" * 64, Cgroup({}, host.group), proc=host.group))
    assert [(one["id"], one["monitors"]) for one in host.monitoring.status()] == [(new.id, ["syscalls"])]


def test_monitoring_that_is_not_admitted_attaches_nothing(host: Host) -> None:
    def refuse() -> None:
        raise AgentError("the agent is being removed")

    refusing = Monitoring(host.calls, host.http, host.resources, refuse)  # type: ignore[arg-type]
    with pytest.raises(AgentError, match="being removed"):
        refusing.start(host.target, ["syscalls"])
    assert host.calls.attached == {}
