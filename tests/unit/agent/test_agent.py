"""The agent as a whole, with monitors that watch nobody."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from chaosorca.agent import agent as agent_module
from chaosorca.agent.agent import Agent
from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.agent.monitors.io_source import PROC, IoSource
from chaosorca.agent.targets.target import Target
from chaosorca.model.errors import AgentError

CONTAINER = {"name": "web", "id": "1" * 64, "pid": 10}
NO_HTTP = "the kernel does not take the program 'http': Invalid argument"
NO_CALLS = "the kernel does not take the program 'syscalls_plain': Operation not permitted"
NO_EVENTS = "system calls cannot be counted: this kernel lets no program see them (Operation not permitted)"
LOST = "what a process of `docker exec` read and wrote is lost when it ends: "


class Monitor:
    """One that watches nobody, and can be refused."""

    def __init__(self) -> None:
        self.unprepared = self.refused = ""
        self.watched: dict[str, Any] = {}
        self.asked = 0
        self.io_of_ended_threads = True

    def prepare(self) -> None:
        self.asked += 1
        if self.unprepared:
            raise AgentError(self.unprepared)

    def attach(self, target: Target, **options: Any) -> None:
        self.prepare()
        self.watched[target.name] = options
        if self.refused and options.get("counting", True):
            raise AgentError(self.refused)

    def suspend(self, name: str) -> None:
        self.watched[name] = "at rest"

    def detach(self, name: str) -> None:
        self.watched.pop(name, None)

    def program(self) -> Any:
        return None if self.unprepared else self

    def ended_io(self) -> dict[str, Any]:
        return dict(self.watched) if self.io_of_ended_threads else {}

    def warnings(self, name: str) -> list[str]:
        return []

    def leave_timing_to_tracer(self, *_: Any) -> None:
        """Nobody's calls are timed."""


class Host:
    """An agent with two such monitors, and a container."""

    def __init__(self, group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        group.mkdir()
        for name, text in (("cgroup.procs", "10\n"), ("cpu.stat", "usage_usec 1\n"), ("memory.current", "1\n")):
            (group / name).write_text(text)
        self.group = group
        monkeypatch.setattr(agent_module, "find_target", lambda _: Target("web", "1" * 64, Cgroup({}, group), proc=group))
        self.calls, self.http = Monitor(), Monitor()
        self.agent = Agent("x86_64")
        monkeypatch.setattr(self.agent, "_look_at_code", lambda container: None)
        monkeypatch.setattr(self.agent, "_syscalls", self.calls)
        monkeypatch.setattr(self.agent, "_http", self.http)
        monkeypatch.setattr(self.agent._resources, "io_source", lambda: IoSource(PROC, ""))
        monkeypatch.setattr(self.agent.names, "trouble", str)

    def watch(self, *monitors: str) -> tuple[list[str], list[str]]:
        """The monitors, and the warnings."""
        told = self.agent.start_monitoring(CONTAINER, list(monitors))
        return told["monitors"], told["warnings"]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path / "group", monkeypatch)


def test_all_monitors_of_a_container(host: Host) -> None:
    assert host.watch("syscalls", "http", "resources") == (["http", "resources", "syscalls"], [])


def test_where_http_cannot_be_followed_the_rest_is_monitored(host: Host) -> None:
    host.http.unprepared = NO_HTTP
    assert host.watch("syscalls", "http") == (["syscalls"], [NO_HTTP])


@pytest.mark.parametrize(("unprepared", "refused"), [(NO_CALLS, ""), ("", NO_EVENTS)])
def test_where_calls_cannot_be_counted_the_rest_is_monitored(host: Host, unprepared: str, refused: str) -> None:
    host.calls.unprepared, host.calls.refused = unprepared, refused
    lost = [LOST + unprepared] * bool(unprepared)
    assert host.watch("syscalls", "http", "resources") == (["http", "resources"], [unprepared or refused, *lost])


def test_resources_alone_need_no_program(host: Host) -> None:
    host.calls.unprepared = NO_CALLS
    assert host.watch("resources") == (["resources"], [LOST + NO_CALLS])
    asked = host.calls.asked
    host.agent._follow(host.agent._targets["web"])
    assert host.calls.asked == asked, "what was refused is not loaded again at every look"


def test_what_is_lost_without_type_information_is_told(host: Host) -> None:
    host.calls.io_of_ended_threads = False
    assert host.watch("resources", "syscalls") == (["resources", "syscalls"], [f"{LOST}this kernel has no BTF"])


def test_nothing_is_lost_where_the_control_group_counts(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.calls.io_of_ended_threads = False
    (host.group / "io.stat").write_text("")
    monkeypatch.setattr(host.agent._resources, "io_source", lambda: IoSource("io.stat", ""))
    assert host.watch("resources") == (["resources"], [])


def test_what_is_not_told_of_resources_is_a_warning(host: Host) -> None:
    (host.group / "memory.current").unlink()
    monitors, (warning,) = host.watch("resources")
    assert monitors == ["resources"]
    assert warning.startswith("its memory in use cannot be told, and is left out: ")


@pytest.mark.parametrize(
    ("monitors", "says"), [(["http"], NO_HTTP), (["syscalls"], NO_CALLS), (["syscalls", "http"], f"{NO_CALLS}; {NO_HTTP}")]
)
def test_where_nothing_is_left_that_is_an_error(host: Host, monitors: list[str], says: str) -> None:
    host.http.unprepared, host.calls.unprepared = NO_HTTP, NO_CALLS
    with pytest.raises(AgentError, match=f"^{re.escape(says)}$"):
        host.watch(*monitors)
    assert host.agent._targets == host.agent._monitors == host.http.watched == {}
    assert host.watch("resources")[0] == ["resources"]
    with pytest.raises(AgentError, match=f"^{re.escape(says)}$"):
        host.watch(*monitors)
    assert host.agent._monitors == {"web": {"resources"}}, "what was monitored already still is"


@pytest.mark.parametrize("on_host", [False, True])
def test_what_is_refused_after_a_restart_is_told_once_and_tried_again(host: Host, on_host: bool) -> None:
    """But not HTTP of a container that is on the host's network now."""
    host.watch("syscalls", "http")
    target = host.agent._targets["web"]
    host.http.refused, host.calls.refused = NO_HTTP, NO_EVENTS
    target.host_network = on_host

    def told() -> tuple[list[str], list[str]]:
        (one,) = host.agent.status()["targets"]
        return one["monitors"], sorted(one["warnings"])

    for _ in range(3):
        host.agent._follow(target)
    assert told() == (["syscalls"] if on_host else ["http", "syscalls"], sorted([NO_HTTP, NO_EVENTS]))
    host.http.refused = host.calls.refused = ""
    host.agent._follow(target)
    assert told() == ((["syscalls"], [NO_HTTP]) if on_host else (["http", "syscalls"], []))


def test_who_has_ended_is_let_go_until_it_is_back(host: Host) -> None:
    host.watch("syscalls", "http", "resources")
    target = host.agent._targets["web"]
    host.group.rename(host.group.parent / "ended")
    host.agent._follow(target)
    assert host.calls.watched == host.http.watched == {"web": "at rest"}
    assert host.agent.status()["targets"][0]["monitors"] == ["http", "resources", "syscalls"]
    (host.group.parent / "ended").rename(host.group)
    host.agent._follow(target)
    assert (host.calls.watched, host.http.watched) == ({"web": {"counting": True}}, {"web": {}})
