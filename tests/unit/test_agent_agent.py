"""The agent as a whole, with monitors that watch nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chaosorca.agent import agent as agent_module
from chaosorca.agent.agent import Agent
from chaosorca.agent.cgroups import Cgroup
from chaosorca.agent.targets import Target
from chaosorca.model.errors import AgentError

CONTAINER = {"name": "web", "id": "1" * 64, "pid": 10}


def test_where_http_cannot_be_followed_the_rest_is_monitored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AgentError("the kernel does not take the program 'http': Invalid argument")

    (tmp_path / "cgroup.procs").write_text("10\n")
    monkeypatch.setattr(agent_module, "find_target", lambda container: Target("web", "1" * 64, Cgroup({}, tmp_path), proc=tmp_path))
    agent = Agent("x86_64")
    monkeypatch.setattr(agent, "_look_at_code", lambda container: None)
    monkeypatch.setattr(agent._http, "prepare", refuse)
    for name in ("prepare", "watch", "unwatch", "leave_timing_to_tracer"):
        monkeypatch.setattr(agent._syscalls, name, lambda *_, **__: None)
    monkeypatch.setattr(agent.names, "warnings", list)
    told = agent.watch(CONTAINER, ["syscalls", "http"])
    assert told["monitors"] == ["syscalls"]
    assert "the kernel does not take the program 'http': Invalid argument" in told["warnings"]
