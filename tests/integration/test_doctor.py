"""What doctor finds on this machine; it leaves everything as it was."""

from __future__ import annotations

import json

import docker

from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.model.contract import AGENT
from tests.support.agent_state import scrape
from tests.support.engine_state import leftovers
from tests.support.project import orca
from tests.support.web import Web

DONE = ("tracepoints", "socket filters", "ptrace", "strace")


def test_everything_is_tried_and_nothing_stays(client: docker.DockerClient) -> None:
    done = orca("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {line[6:26].strip(): line for line in done.stdout.splitlines()}
    assert len(lines) == len(done.stdout.splitlines()), "one line for each check"
    assert [name for name in DONE if not lines[name].startswith("ok ")] == []
    assert [line for line in lines.values() if line.startswith("no ") and ": " not in line] == [], "each says what to do"
    assert lines["agent"].endswith("could be started and was removed again")
    assert "was built" in lines["agent image"]
    assert "freezes" in lines["docker pause"]
    assert done.stdout.splitlines()[-1].startswith("ok    main job")
    assert leftovers(client) == []


def test_a_busy_agent_is_used_and_keeps_its_work(web: Web, client: docker.DockerClient) -> None:
    start_monitoring(container=web.name)
    agent = client.containers.get(AGENT)
    report = json.loads(orca("doctor", "--json").stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert report["ok"] is True
    assert checks["agent"]["found"].endswith("was already running and is left unchanged")
    assert [name for name in DONE if checks[name]["mark"] != "ok"] == []
    assert client.containers.get(AGENT).attrs["State"] == agent.attrs["State"]
    assert [series for series in scrape() if AGENT in series] == [], "calls of doctor's checks are in no figure"
    assert stop_monitoring(container=web.name) == {"stopped": [web.name]}
