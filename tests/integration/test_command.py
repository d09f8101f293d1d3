"""The `chaosorca` command, on a container that was started with `docker run`."""

from __future__ import annotations

import csv
import io
import itertools
import time
from datetime import datetime
from pathlib import Path

import docker
import pytest

from tests.support.engine_state import leftovers
from tests.support.project import orca
from tests.support.web import Web


def sums(text: str) -> dict[str, float]:
    """Return the total of each column of a CSV: rates times the time between rows."""
    rows = list(csv.DictReader(io.StringIO(text)))
    result: dict[str, float] = {}
    for earlier, row in itertools.pairwise(rows):
        took = (datetime.fromisoformat(row["timestamp"]) - datetime.fromisoformat(earlier["timestamp"])).total_seconds()
        for name in row.keys() - {"timestamp"}:
            result[name] = result.get(name, 0.0) + float(row[name] or 0) * took
    return result


@pytest.mark.always
def test_monitor_fault_metric(web: Web, client: docker.DockerClient, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = orca(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "monitoring" in run("monit", "start", "--name", web.name)
    assert web.get() == 200
    assert "attached to" in run("fault", "start", "--name", web.name, "--syscall", "openat", "--error", "ENOENT")
    assert [web.get() for _ in range(4)] == [404] * 4
    assert "by uprobe, fired 4 times, active until" in run("fault", "list")
    assert "fired 4 times" in run("fault", "stop", "--name", web.name)
    assert run("fault", "stop", "--name", web.name) == "no fault was active\n"
    assert [web.get() for _ in range(3)] == [200] * 3
    assert run("prom", "start").startswith("Prometheus already runs at http://127.0.0.1:")

    time.sleep(3)
    http = sums(run("metric", "http", "--name", web.name))
    assert {code: round(value, 1) for code, value in http.items()} == {"200": 4, "404": 4}
    calls = sums(run("metric", "syscall", "--name", web.name))
    assert round(calls["openat:ENOENT"], 1) == 4
    assert round(calls["openat"], 1) == 8
    for metric in ("cpu", "latency", "io", "mem", "netr", "nets"):
        assert run("metric", metric, "--name", web.name).startswith("timestamp,")
    file = tmp_path / "http.csv"
    assert run("metric", "http", "--name", web.name, "--since", "5m", "--output", str(file)) == ""
    assert file.read_text().startswith("timestamp,200,404\n")

    assert "stopped monitoring" in run("monit", "stop", "--name", web.name)
    assert leftovers(client) == [], "`monit stop` removes the Prometheus that `monit start` began"
    assert run("monit", "stop", "--name", web.name) == f"{web.name} was not monitored\n"
    assert run("prom", "stop") == "Prometheus was not running\n"


def test_prometheus_by_itself(client: docker.DockerClient) -> None:
    started = orca("prom", "start", "--port", "0", "--scrape-interval", "500ms")
    assert started.returncode == 0, started.stderr
    assert started.stdout.startswith("Prometheus started at http://127.0.0.1:")
    assert orca("prom", "stop").stdout == "Prometheus stopped\n"
    assert leftovers(client) == []
