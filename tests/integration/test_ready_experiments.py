"""The ready experiments on Redis, PostgreSQL and a worker of nginx, as users run them, under a bounded load."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from tests.support.experiments import chaos, rows
from tests.support.project import ROOT
from tests.support.waiting import wait_for
from tests.support.web import Web

FROM_START_TO_END = timedelta(seconds=8)


@pytest.fixture
def redis(client: docker.DockerClient, run_container: Callable[..., Container], monkeypatch: pytest.MonkeyPatch) -> Web:
    """A Redis that is written to about 45 times a second."""
    load = ["redis-cli", "-r", "9000", "-i", "0.02", "SET", "key", "value"]
    in_memory = "/dev/shm"  # otherwise the disk's own delays would be measured too
    return server(client, run_container, monkeypatch, "redis", ["redis-cli", "PING"], load, working_dir=in_memory)


@pytest.fixture
def postgres(client: docker.DockerClient, run_container: Callable[..., Container], monkeypatch: pytest.MonkeyPatch) -> Web:
    """A PostgreSQL with about 45 lookups a second."""
    ready = ["pg_isready", "--host", "127.0.0.1"]
    return server(client, run_container, monkeypatch, "postgres", ready, ["lookups", "9000", "50"])


def server(
    client: docker.DockerClient,
    run_container: Callable[..., Container],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    ready: list[str],
    load: list[str],
    **options: Any,
) -> Web:
    """Start a server of `experiments/`, and its clients in another container of the same image and network."""
    image = f"chaosorca-test-{name}"
    client.images.build(path=str(ROOT / "experiments" / name), tag=image, rm=True)
    monkeypatch.setenv("CHAOSORCA_CLIENT_IMAGE", image)
    container = run_container(image=image, **options)
    wait_for(lambda: container.exec_run(ready).exit_code == 0, 30)
    run_container(load, image=image, network_mode=f"container:{container.name}")
    return Web(container, "")


@dataclass
class Run:
    """What a run of an experiment left behind in its files."""

    outputs: dict[str, Any]
    syscalls: list[dict[str, Any]]
    begin: datetime
    end: datetime

    def out(self, activity: str) -> str:
        """Return the output of a process that an activity started."""
        assert self.outputs[activity]["status"] == 0, self.outputs[activity]
        return str(self.outputs[activity]["stdout"])

    def calls(self, series: str, after: datetime | None = None, until: datetime | None = None) -> float:
        """Return the number of counted calls, in a span or in the whole experiment."""
        return sum(
            float(row[series]) * (row["timestamp"] - earlier["timestamp"]).total_seconds()
            for earlier, row in itertools.pairwise(self.syscalls)
            if (after is None or earlier["timestamp"] > after) and (until is None or row["timestamp"] < until)
        )


def run_experiment(name: str, target: Web, directory: Path, lasts: timedelta = FROM_START_TO_END) -> Run:
    """Run an experiment; check that it succeeds, that its fault lasts for a while, and that the container is unchanged."""
    experiment = str(ROOT / "experiments" / f"{name}.json")
    validation = chaos(target, directory, "validate", experiment)
    output, _ = validation.communicate(timeout=60)
    assert validation.returncode == 0, output
    target.container.reload()
    before = target.container.attrs["State"]

    run = chaos(target, directory, "run", experiment)
    output, _ = run.communicate(timeout=180)

    assert run.returncode == 0, output
    assert "ERROR" not in output
    assert "Traceback" not in output
    journal = json.loads((directory / "journal.json").read_text())
    assert journal["status"] == "completed"
    assert journal["deviated"] is False
    for when in ("before", "after"):
        assert journal["steady_states"][when]["steady_state_met"], output
    assert all(activity["status"] == "succeeded" for activity in journal["run"] + journal["rollbacks"])
    assert target.tracers() == {0}
    target.container.reload()
    assert target.container.attrs["State"] == before

    (results,) = (directory / "chaosorca-results").iterdir()
    at = {row["event"]: row["timestamp"] for row in rows(results / "events.csv") if row["container"] == target.name}
    assert at["fault_end"] - at["fault_begin"] > lasts
    outputs = {run["activity"]["name"]: run["output"] for run in journal["run"]}
    return Run(outputs, rows(results / target.name / "syscall.csv"), at["fault_begin"], at["fault_end"])


def test_redis_is_slow_while_its_disk_is(redis: Web, tmp_path: Path) -> None:
    run = run_experiment("redis-fdatasync-slow", redis, tmp_path)

    def milliseconds(activity: str) -> float:
        return float(re.findall(r"p50=([\d.]+) msec", run.out(activity))[-1])

    assert milliseconds("baseline-of-writes-for-a-client") < 30
    assert 50 <= milliseconds("slow-writes-for-a-client") < 200
    assert milliseconds("recovered-writes-for-a-client") < 30
    assert run.outputs["baseline-of-fdatasync-in-seconds"] < 0.03
    assert 0.05 < run.outputs["slow-fdatasync-in-seconds"] < 0.2
    assert run.outputs["recovered-fdatasync-in-seconds"] < 0.03

    assert run.outputs["calls-tampered-with"] > 60
    seconds = (run.end - run.begin).total_seconds()
    assert 0 < run.calls("fdatasync", run.begin, run.end) <= seconds / 0.05, "one thread, 50 ms each"


def test_postgres_fails_some_queries_while_a_tenth_of_its_reads_fails(postgres: Web, tmp_path: Path) -> None:
    run = run_experiment("postgres-pread64-eio", postgres, tmp_path)

    def failed(activity: str) -> int:
        found = re.fullmatch(r"200 lookups, (\d+) failed", run.out(activity).strip())
        assert found is not None
        return int(found[1])

    injected = run.outputs["calls-tampered-with"]
    assert injected > 30
    assert run.calls("pread64:EIO") == pytest.approx(injected, rel=0.01)
    share = run.calls("pread64:EIO", run.begin, run.end) / run.calls("pread64", run.begin, run.end)
    assert share == pytest.approx(0.1, abs=0.04)
    assert 0 < run.outputs["failing-reads-per-second"] < run.outputs["reads-per-second"] / 4
    assert 10 < failed("lookups-that-fail") < 100  # a lookup reads one or two pages
    assert failed("recovered-lookups") == 0


def test_nginx_replaces_a_worker_that_was_killed(web: Web, load: None, tmp_path: Path) -> None:
    run = run_experiment("nginx-worker-killed", web, tmp_path, timedelta(0))  # the worker ends with this call

    def processes(activity: str) -> tuple[set[str], set[str]]:
        output = run.out(activity)
        return set(re.findall(r"(\d+) +nginx: master", output)), set(re.findall(r"(\d+) +nginx: worker", output))

    (master, before), (still, after) = processes("baseline-of-processes"), processes("recovered-processes")
    assert run.outputs["workers-killed"] == 1
    assert 0 <= run.outputs["seconds-until-it-recovered"] < 5
    assert still == master
    assert len(after) == len(before)
    assert len(before - after) == 1
    assert processes("processes-with-a-new-worker") == (master, after)
    assert run.outputs["requests-never-answered-per-second"] > 0
    assert web.get() == 200
