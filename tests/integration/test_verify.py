"""The `verify` control: an experiment whose fault did not fire has failed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from tests.support.engine_state import leftovers
from tests.support.project import BIN
from tests.support.web import Web


def run(
    directory: Path, *faults: dict[str, Any], controls_of: str = "experiment", **verify: Any
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run an experiment that starts faults, waits for a second, and ends them by its controls or by those of the settings."""

    def python(module: str, **more: Any) -> dict[str, Any]:
        return {"type": "python", "module": f"chaosorca.{module}", **more}

    experiment = {
        "title": "a fault",
        "description": "to be verified",
        "configuration": {"error": "EACCES"},
        "method": [
            {
                "name": f"fault-{number}",
                "type": "action",
                "provider": python("actions.faults", func="start_fault", arguments=arguments),
                "pauses": {"after": 1},
            }
            for number, arguments in enumerate(faults)
        ],
        "rollbacks": [],
    }
    controls = {
        "verify": {"provider": python("controls.verify", arguments=verify)},
        "cleanup": {"provider": python("controls.cleanup")},
    }
    if controls_of == "experiment":
        experiment["controls"] = [{"name": name, **control} for name, control in controls.items()]
    settings = {"controls": controls} if controls_of == "settings" else {}
    (directory / "settings.json").write_text(json.dumps(settings))  # YAML includes JSON
    (directory / "experiment.json").write_text(json.dumps(experiment))
    done = subprocess.run(
        [BIN / "chaos", "--no-version-check", "--settings", "settings.json", "run", "experiment.json"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ,
    )
    return done, json.loads((directory / "journal.json").read_text())


@pytest.mark.parametrize("controls_of", ["experiment", "settings"])
def test_a_fault_that_never_fired_is_a_failure(controls_of: str, web: Web, tmp_path: Path, client: docker.DockerClient) -> None:
    done, journal = run(tmp_path, {"container": web.name, "syscall": "mount", "error": "${error}"}, controls_of=controls_of)
    assert done.returncode == 1, done.stdout
    assert journal["status"] == "failed"
    assert journal["chaosorca"] == {"failed": [f"fault 'fault-0' never fired on container '{web.name}' (at least 1 call expected)"]}
    assert leftovers(client) == []


def test_a_fired_fault_and_a_placebo_are_no_failure(run_container: Callable[..., Container], tmp_path: Path) -> None:
    busy = run_container(["perl", "-e", "while (1) { getppid(); select(undef, undef, undef, 0.02) }"])
    done, journal = run(
        tmp_path,
        {"container": busy.name, "syscall": "getppid", "error": "EPERM", "duration": "500ms"},
        {"container": busy.name, "syscall": "mount", "error": "EPERM", "placebo": "true"},
    )
    assert done.returncode == 0, done.stdout
    assert journal["status"] == "completed"
    assert "chaosorca" not in journal


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"syscall": "opennat", "error": "EACCES"}, "system call 'opennat' does not exist"),
        (
            {"syscall": "openat", "error": "EACCES", "container": "no-such-container"},
            "no-such-container",
        ),
        ({"syscall": "openat"}, "has no effect"),
    ],
)
def test_a_fault_that_cannot_work_stops_the_experiment_before_anything_starts(
    fault: dict[str, Any], says: str, web: Web, tmp_path: Path, client: docker.DockerClient
) -> None:
    good = {"container": web.name, "syscall": "openat", "error": "EACCES"}
    done, journal = run(tmp_path, good, {"container": web.name, **fault})
    assert done.returncode == 1
    assert journal["run"] == []
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert leftovers(client) == []
