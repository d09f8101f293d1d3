"""The command: exit codes, and errors of one line. No Docker Engine answers."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from chaosorca import cli
from chaosorca.engine import prometheus
from chaosorca.exceptions import AgentError, EngineError, PortTaken

FAILING = [
    "prom start",
    "prom start --port 0 --scrape-interval 500ms",
    "prom stop",
    "prom stop --keep-data",
    "monit start --name x",
    "monit stop --name x",
    "fault start --name x --syscall openat --error EACCES",
    "fault start -n x -s openat -e EACCES --delay-enter 100ms --delay-exit 1s --when 2..9+2 --duration 5s",
    "fault stop --name x",
    "fault stop --name x --syscall openat",
    "fault stop --all",
    "fault list",
    "debug maps",
    "debug maps --program syscalls",
    "metric cpu --name x",
    "metric syscall -n x --since 1m --step 2s --window 15s",
    "--docker-host unix:///also-nonexistent.sock prom start",
]
WRONG = [
    ("nonsense", "No such command 'nonsense'"),
    ("--nonsense", "No such option"),
    ("prom nonsense", "No such command 'nonsense'"),
    ("prom start --port http", "port 'http' is not a number"),
    ("prom start --port 65536", "port '65536' is not between 0 and 65535"),
    ("prom start --scrape-interval 1", "scrape_interval '1' has no unit"),
    ("prom start extra", "unexpected extra argument"),
    ("monit start", "Missing option '--name'"),
    ("monit start --name", "requires an argument"),
    ("fault start", "Missing option"),
    ("fault start --name x --error EACCES", "Missing option '--syscall'"),
    ("fault start --syscall openat --error EACCES", "give exactly one of container and label"),
    ("fault stop", "give either --name or --all"),
    ("fault stop --name x --all", "give either --name or --all"),
    ("doctor extra", "unexpected extra argument"),
    ("doctor --nonsense", "No such option"),
    ("metric", "Missing argument 'METRIC'"),
    ("metric cpu", "Missing option '--name'"),
    ("metric nonsense --name x", "metric 'nonsense' does not exist: there are cpu, http"),
    ("metric sycall --name x", "did you mean 'syscall'"),
    ("metric cpu --name x --since 15", "since '15' has no unit"),
    ("metric cpu --name x --since soon", "since 'soon' is not a duration"),
    ("metric cpu --name x --since 0s", "since '0s' is zero"),
    ("metric cpu --name x --step 1", "step '1' has no unit"),
    ("metric cpu --name x --window 15", "window '15' has no unit"),
]
HELP = [
    "--help",
    "-h",
    "prom --help",
    "prom start --help",
    "monit --help",
    "fault start --help",
    "fault list -h",
    "metric --help",
    "doctor --help",
    "debug maps --help",
]


def call(arguments: str) -> tuple[int, str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DOCKER_", "CHAOSORCA_", "PROMETHEUS_"))}
    done = subprocess.run(
        [sys.executable, "-m", "chaosorca.cli", *arguments.split()],
        env={**environment, "DOCKER_HOST": "unix:///nonexistent.sock"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@cache
def results() -> dict[str, tuple[int, str, str]]:
    """Return the exit code, output and errors of all commands. They run at once, since each takes a while to start."""
    commands = [*FAILING, *(command for command, _ in WRONG), *HELP, "--version"]
    with ThreadPoolExecutor(max_workers=8) as pool:
        return dict(zip(commands, pool.map(call, commands), strict=True))


@pytest.mark.parametrize("command", FAILING)
def test_a_failure_is_exit_code_1_and_one_line(command: str) -> None:
    code, output, errors = results()[command]
    assert (code, output) == (1, "")
    assert errors.startswith("chaosorca: no Docker Engine answers ")
    assert errors.endswith("(No such file or directory)\n")
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(("command", "says"), WRONG)
def test_wrong_use_is_exit_code_2_and_one_line(command: str, says: str) -> None:
    code, output, errors = results()[command]
    assert (code, output) == (2, "")
    assert errors.startswith("chaosorca: ")
    assert says in errors
    assert len(errors.splitlines()) == 1
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", HELP)
def test_help_needs_no_engine(command: str) -> None:
    code, output, errors = results()[command]
    assert (code, errors) == (0, "")
    assert output.startswith("Usage: ")


def test_the_version_is_printed() -> None:
    code, output, errors = results()["--version"]
    assert (code, errors) == (0, "")
    assert output.startswith("chaosorca, version ")


@pytest.mark.parametrize(
    ("refused", "ports"), [(None, [9090]), (PortTaken("port 9090 is taken"), [9090, 0]), (EngineError("no space left"), [9090])]
)
def test_a_free_port_is_used_if_the_usual_one_is_taken(
    refused: Exception | None, ports: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def start(client: Any, configuration: Any, port: int, interval: int, labels: Any) -> dict[str, Any]:
        asked.append(port)
        if port and refused is not None:
            raise refused
        return {"url": "http://127.0.0.1:1", "started": True}

    monkeypatch.setattr(cli, "connect", lambda _: None)
    monkeypatch.setattr(prometheus, "is_running", lambda _: False)
    monkeypatch.setattr(prometheus, "start_prometheus", start)
    with contextlib.nullcontext() if ports[-1] == 0 or refused is None else pytest.raises(EngineError, match="no space left"):
        cli._ensure_prometheus({})
    assert asked == ports


MAPS = {"http": {"exchanges": {"entries": 0, "content": []}}, "syscalls": {"counts": {"entries": 1, "content": [[[0, 257], 4]]}}}


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [([], MAPS), (["--program", "http"], {"http": MAPS["http"]}), (["-p", "syscalls"], {"syscalls": MAPS["syscalls"]})],
)
def test_debug_maps_prints_what_the_agent_dumps(arguments: list[str], printed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    agent = SimpleNamespace(ask=lambda operation: asked.append(operation) or MAPS)
    monkeypatch.setattr(cli, "connect", lambda _: None)
    monkeypatch.setattr(cli, "find_agent", lambda _: agent)
    result = CliRunner().invoke(cli.cli, ["debug", "maps", *arguments])
    assert (result.exit_code, json.loads(result.output), asked) == (0, printed, ["dump_maps"])


@pytest.mark.parametrize(
    ("agent", "arguments", "says"),
    [
        (None, [], r"^no agent is running: start monitoring or a fault first$"),
        (SimpleNamespace(ask=lambda _: MAPS), ["-p", "x"], r"^the agent has not loaded program 'x': there are http, syscalls$"),
        (SimpleNamespace(ask=lambda _: {}), ["-p", "x"], r"there are none$"),
    ],
)
def test_debug_maps_says_what_is_missing(agent: Any, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "connect", lambda _: None)
    monkeypatch.setattr(cli, "find_agent", lambda _: agent)
    with pytest.raises(AgentError, match=says):
        CliRunner().invoke(cli.cli, ["debug", "maps", *arguments], catch_exceptions=False)
