"""The experiments as users run them: `chaos run` in its own process, on an ordinary container."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.support.experiments import chaos, rows
from tests.support.project import BIN, ROOT
from tests.support.waiting import wait_for
from tests.support.web import Web

METRICS = {"cpu", "http", "io", "latency", "mem", "netr", "nets", "syscall"}
SCRAPE = timedelta(seconds=1)


def identity(web: Web) -> dict[str, Any]:
    """Return everything of a container that chaosorca could change."""
    web.container.reload()
    attrs = web.container.attrs
    return {
        "id": attrs["Id"],
        "networks": {name: network["NetworkID"] for name, network in attrs["NetworkSettings"]["Networks"].items()},
        "mounts": attrs["Mounts"],
        "started": attrs["State"]["StartedAt"],
        "processes": web.pids(),
        "changed files": sorted(change["Path"] for change in web.container.diff() or []),
    }


@pytest.mark.parametrize("name", [pytest.param("nginx-openat-eacces", marks=pytest.mark.always), "nginx-openat-eacces-actions"])
def test_an_experiment_shows_the_fault_and_the_recovery(name: str, web: Web, load: None, tmp_path: Path) -> None:
    experiment = ROOT / "experiments" / f"{name}.json"
    validation = chaos(web, tmp_path, "validate", str(experiment))
    output, _ = validation.communicate(timeout=60)
    assert validation.returncode == 0, output
    # nginx itself logs the files that it cannot open, so its log exists before.
    assert web.container.exec_run(["sh", "-c", "echo >>/var/log/nginx/error.log"]).exit_code == 0
    before = identity(web)

    run = chaos(web, tmp_path, "run", str(experiment))
    output, _ = run.communicate(timeout=180)

    assert run.returncode == 0, output
    assert "ERROR" not in output
    journal = json.loads((tmp_path / "journal.json").read_text())
    assert journal["status"] == "completed"
    assert journal["deviated"] is False
    for when in ("before", "after"):
        assert journal["steady_states"][when]["steady_state_met"], output
    assert all(activity["status"] == "succeeded" for activity in journal["run"] + journal["rollbacks"])

    assert identity(web) == before
    assert web.tracers() == {0}
    assert web.get() == 200

    (results,) = (tmp_path / "chaosorca-results").iterdir()
    assert ":" not in results.name
    assert {path.stem for path in (results / web.name).iterdir()} == METRICS
    report = (results / "report.html").read_text()
    assert "openat:error=EACCES" in report
    assert "never fired" not in report
    assert report.count('role="img"') == len(METRICS)
    events = {(row["event"], row["container"]): row for row in rows(results / "events.csv")}
    begin, end = events["fault_begin", web.name]["timestamp"], events["fault_end", web.name]["timestamp"]
    assert timedelta(seconds=9) < end - begin < timedelta(seconds=20)

    http = rows(results / web.name / "http.csv")
    times = [row["timestamp"] for row in http]
    assert times == sorted(times)
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 1.95 * SCRAPE, "no scrape is missing"
    assert times[0] < begin - timedelta(seconds=8)
    assert times[-1] > end + timedelta(seconds=10)
    forbidden = 0.0
    hit, recovered = [], []
    for earlier, row in itertools.pairwise(http):
        at, ok, failed = row["timestamp"], float(row["200"]), float(row["403"])
        forbidden += failed * (at - earlier["timestamp"]).total_seconds()
        if at < begin or at > end + 2 * SCRAPE:
            assert failed == 0, row
        elif begin + 2.5 * SCRAPE < at < end:
            assert ok == 0, row
        if at > end + 2 * SCRAPE:
            recovered.append(ok)
        elif begin + 4 * SCRAPE < at < end:
            hit.append(failed)
    for rates in (hit, recovered):
        means = [sum(rates[at : at + 3]) / 3 for at in range(len(rates) - 2)]
        assert len(means) > 2
        assert all(40 < mean < 60 for mean in means), rates  # a busy second moves some requests to the next one
    outputs = {run["activity"]["name"]: run["output"] for run in journal["run"]}
    injected = outputs["calls-tampered-with"]
    assert injected > 400
    assert forbidden == pytest.approx(injected, rel=0.05)

    failed_calls = rows(results / web.name / "syscall.csv")
    total = sum(
        float(row["openat:EACCES"]) * (row["timestamp"] - earlier["timestamp"]).total_seconds()
        for earlier, row in itertools.pairwise(failed_calls)
    )
    assert total == pytest.approx(injected, rel=0.01)
    # The difference is at most one scrape, since rows that are closer together than usual are left out.
    gone = max((max(row["timestamp"] for row in http if float(row["403"])) - end).total_seconds(), 0)
    assert max(gone - SCRAPE.total_seconds(), 0) <= outputs["seconds-until-it-recovered"] <= gone + 0.002


def hurried(name: str, directory: Path) -> Path:
    """Write a copy of an experiment with shorter pauses; return its path."""
    experiment = json.loads((ROOT / "experiments" / f"{name}.json").read_text())
    for activity in experiment["method"]:
        activity["pauses"] = {when: min(seconds, 4) for when, seconds in activity.get("pauses", {}).items()}
    copy = directory / f"{name}.json"
    copy.write_text(json.dumps(experiment))
    return copy


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_experiment_that_is_interrupted_leaves_no_fault(
    how: signal.Signals, web: Web, load: None, tmp_path: Path, client: docker.DockerClient
) -> None:
    run = chaos(web, tmp_path, "run", str(hurried("nginx-openat-eacces", tmp_path)))
    wait_for(lambda: web.get() == 403, 90)
    time.sleep(1)
    run.send_signal(how)
    output, _ = run.communicate(timeout=120)
    assert web.get() == 200, output
    assert web.tracers() == {0}
    (events,) = (tmp_path / "chaosorca-results").glob("*/events.csv")
    assert [row["event"] for row in rows(events) if row["container"] == web.name] == ["fault_begin", "fault_end"], output


def test_a_dry_run_touches_nothing(web: Web, tmp_path: Path, client: docker.DockerClient) -> None:
    run = chaos(web, tmp_path, "run", "--dry", "activities", str(ROOT / "experiments" / "nginx-openat-eacces.json"))
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 0, output
    assert not (tmp_path / "chaosorca-results").exists()
    assert web.tracers() == {0}


def test_a_missing_container_stops_the_experiment_before_anything_starts(web: Web, tmp_path: Path) -> None:
    experiment = ROOT / "experiments" / "nginx-openat-eacces.json"
    environment = {**os.environ, "CHAOSORCA_TARGET": web.name + "x", "CHAOSORCA_URL": web.url}
    run = subprocess.run(
        [BIN / "chaos", "--no-version-check", "run", experiment],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 1
    assert f"container '{web.name}x' does not exist: did you mean '{web.name}'?" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert json.loads((tmp_path / "journal.json").read_text())["run"] == []


def test_discover_lists_all_activities_with_typed_arguments(tmp_path: Path) -> None:
    run = subprocess.run(
        [BIN / "chaos", "--no-version-check", "discover", "chaostoolkit-orca", "--no-install", "--discovery-path", "d.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    activities = json.loads((tmp_path / "d.json").read_text())["activities"]
    assert {activity["name"] for activity in activities} == {
        *("start_prometheus", "stop_prometheus", "start_monitoring", "stop_monitoring"),
        *("start_fault", "stop_fault", "stop_all_faults"),
        *(
            "request_rate",
            "error_ratio",
            "latency",
            "time_to_recover",
            "syscall_rate",
            "syscall_latency",
            "cpu_usage",
            "memory_usage",
        ),
        *("network_receive_rate", "network_transmit_rate", "io_rate", "faults_injected", "fault_active"),
    }
    for activity in activities:
        for argument in activity["arguments"]:
            assert argument["type"] in {"string", "integer", "number", "boolean", "mapping"}, (activity["name"], argument)
