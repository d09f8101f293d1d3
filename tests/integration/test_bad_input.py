"""Bad input gives one clear sentence, and starts and leaves nothing (each test checks that at its end)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import docker
import pytest
from chaoslib.exceptions import ActivityFailed
from docker.models.containers import Container

from chaosorca.actions.faults import start_fault, stop_fault
from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.actions.prometheus import start_prometheus, stop_prometheus
from chaosorca.model.contract import AGENT
from chaosorca.probes.http import request_rate
from tests.support.engine_state import leftovers
from tests.support.project import orca
from tests.support.web import Web

GOOD: dict[str, Any] = {"syscall": "openat", "error": "EACCES"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"syscall": "opennat"}, "system call 'opennat' does not exist on x86_64: did you mean 'openat'"),
        ({"syscall": "sendfile64"}, "system call 'sendfile64' does not exist on x86_64: did you mean 'sendfile'"),
        ({"syscall": "openat,cachestat", "injector": "strace"}, "injector 'strace' does not support system call 'cachestat'"),
        ({"syscall": ""}, "names no system call"),
        ({"error": "EACCESS"}, "error 'EACCESS' is not a Linux errno: did you mean 'EACCES'"),
        ({"error": None}, "has no effect: give one of delay_enter, error"),
        ({"delay_enter": 100}, "delay_enter 100 has no unit"),
        ({"delay_exit": "100"}, "delay_exit '100' has no unit"),
        ({"delay_exit": "fast"}, "delay_exit 'fast' is not a duration"),
        ({"duration": 60}, "duration 60 has no unit"),
        ({"when": "0"}, "when '0' has 0, which is outside 1 to 65535"),
        ({"when": "every"}, "when 'every' is not one of F, F+, F+S"),
        ({"injector": "gdb"}, "injector 'gdb' does not exist"),
        ({"retval": "0"}, "a call cannot both fail with EACCES and return 0"),
        ({"signal": "SIGUSR3"}, "signal 'SIGUSR3' does not exist: did you mean 'SIGUSR"),
        ({"syscall": "%fiel"}, "class '%fiel' of system calls does not exist: did you mean 'file'"),
        ({"path": "etc"}, "path 'etc' is not absolute"),
        ({"syscall": "getppid", "path": "/etc"}, "system call 'getppid' names no file"),
        ({"syscall": "exit_group"}, "system call 'exit_group' never returns, so error cannot act on it"),
        ({"process": ""}, "process '' is not text to match"),
        ({"probability": 2}, "probability 2 is not between 0 and 1"),
        ({"probability": "0"}, "probability '0' means never"),
        ({"max_faults": -1}, "max_faults -1 is not between 0 and"),
        ({"injector": "strace", "probability": 0.5}, "injector 'strace' does not support a probability"),
        ({"injector": "strace", "max_faults": 3}, "injector 'strace' does not support a budget (max_faults)"),
        ({"abort_when": "errors > 0.5"}, "abort_when has no measure 'errors'"),
        ({"abort_when": "error_ratio > 0.5 for 10s"}, "needs the HTTP monitoring of container"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(
    arguments: dict[str, Any], sentence: str, web: Web, client: docker.DockerClient
) -> None:
    with pytest.raises(ActivityFailed) as failed:
        start_fault(container=web.name, **{**GOOD, **arguments})
    assert sentence in str(failed.value)
    assert "\n" not in str(failed.value)
    assert leftovers(client) == []
    assert web.tracers() == {0}


@pytest.mark.parametrize("start", [lambda name: start_fault(container=name, **GOOD), lambda name: start_monitoring(container=name)])
def test_containers_that_cannot_be_targets(start: Callable[[str], Any], web: Web, run_container: Callable[..., Container]) -> None:
    def refused(name: str) -> str:
        with pytest.raises(ActivityFailed) as failed:
            start(name)
        return str(failed.value)

    assert refused(web.name[:-1] + "x") == f"container '{web.name[:-1]}x' does not exist: did you mean '{web.name}'?"
    protected = run_container(["sleep", "60"], labels={"chaosorca.protected": "true"})
    assert "is protected by its label chaosorca.protected=true" in refused(protected.name)
    stopped = run_container(["true"])
    stopped.wait()
    assert "is not running (exited)" in refused(stopped.name)
    paused = run_container(["sleep", "60"])
    paused.pause()
    assert "is paused" in refused(paused.name)
    paused.unpause()


def test_our_own_containers_are_no_targets(web: Web) -> None:
    start_monitoring(container=web.name)
    for act in (lambda: start_fault(container=AGENT, **GOOD), lambda: start_monitoring(container=AGENT)):
        with pytest.raises(ActivityFailed, match="is one of chaosorca's own"):
            act()
    stop_monitoring(container=web.name)


def test_a_port_that_is_taken(client: docker.DockerClient) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ActivityFailed, match=f"port {port} on 127.0.0.1 is taken"):
            start_prometheus(port=port)
    assert leftovers(client) == []


def test_a_missing_prometheus_is_an_error(web: Web) -> None:
    with pytest.raises(ActivityFailed, match="Prometheus is not running: start it"):
        request_rate(web.name)
    with pytest.raises(ActivityFailed, match=r"Prometheus cannot be reached at http://127\.0\.0\.1:1"):
        request_rate(web.name, configuration={"prometheus_base_url": "http://127.0.0.1:1"})


@pytest.mark.parametrize("setting", [{"port": "http"}, {"port": 70000}, {"scrape_interval": 1}, {"scrape_interval": "soon"}])
def test_a_prometheus_that_makes_no_sense_is_refused(setting: dict[str, Any], client: docker.DockerClient) -> None:
    with pytest.raises(ActivityFailed):
        start_prometheus(**setting)
    assert leftovers(client) == []
    assert stop_prometheus() == {"stopped": False}


def test_no_docker_engine() -> None:
    configuration = {"chaosorca_docker_host": "unix:///nowhere/docker.sock"}
    for act in (
        lambda: start_fault(container="web", **GOOD, configuration=configuration),
        lambda: stop_fault("web", configuration=configuration),
    ):
        with pytest.raises(ActivityFailed, match=r"no Docker Engine answers at 'unix:///nowhere/docker\.sock'"):
            act()


def test_the_command_reports_by_one_line_and_its_exit_code(web: Web, client: docker.DockerClient) -> None:
    wrong = [
        ("fault", "start", "--name", web.name, "--syscall", "opennat", "--error", "EACCES"),
        ("fault", "start", "--name", web.name, "--syscall", "openat"),
        ("fault", "start", "--name", web.name, "--syscall", "openat", "--delay-enter", "100"),
        ("metric", "htttp", "--name", web.name),
    ]
    failed = [
        ("monit", "start", "--name", "no-such-container"),
        ("fault", "start", "--name", "no-such-container", "--syscall", "openat", "--error", "EACCES"),
        ("metric", "http", "--name", web.name),
    ]
    for code, commands in ((2, wrong), (1, failed)):
        for command in commands:
            done = orca(*command)
            assert done.returncode == code, done
            assert len(done.stderr.splitlines()) == 1, done.stderr
            assert done.stderr.startswith("chaosorca: ")
            assert done.stdout == ""
    no_engine = orca("monit", "start", "--name", "x", environment={**os.environ, "DOCKER_HOST": "unix:///nowhere/docker.sock"})
    assert (no_engine.returncode, len(no_engine.stderr.splitlines())) == (1, 1)
    assert leftovers(client) == []
