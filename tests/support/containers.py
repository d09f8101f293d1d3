"""Containers of the tests on the real engine, and what several tests ask of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
OWN = {"label": "chaosorca.role"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may trace, stop or kill processes of containers by hand")


WAITS = "$SIG{USR2} = sub { $go = 1 }; select(undef, undef, undef, 0.05) until $go;"
"""Has a perl program wait until it is told to go on, by `go_on`."""

PAGE = "/var/www/html/index.nginx-debian.html"
"""The one that nginx answers with. A fault on this path alone lets nginx start, whenever it is there."""


@dataclass
class Web:
    """A container that serves HTTP on a port of 127.0.0.1."""

    container: Container
    url: str

    @property
    def name(self) -> str:
        return str(self.container.name)

    def get(self, path: str = "") -> int:
        """The status code of a request, 0 if there was no answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def pids(self) -> list[int]:
        """Its processes, as the host numbers them."""
        titles, processes = (lambda top: (top["Titles"], top["Processes"]))(self.container.top())
        return sorted(int(process[titles.index("PID")]) for process in processes)

    def tracers(self) -> set[int]:
        """Who traces its threads; {0} if nobody does."""
        found = set()
        for pid in self.pids():
            for status in Path(f"/proc/{pid}/task").glob("*/status"):
                found.add(int(next(line for line in status.read_text().splitlines() if line.startswith("TracerPid")).split()[1]))
        return found


def ours(client: docker.DockerClient) -> list[str]:
    """Containers, networks and volumes that carry our label."""
    containers = [f"container {one.name}" for one in client.containers.list(all=True, filters=OWN, ignore_removed=True)]
    networks = [f"network {one.name}" for one in client.networks.list(filters=OWN)]
    volumes = [f"volume {one.name}" for one in client.volumes.list(filters=OWN)]
    return containers + networks + volumes


def remove_ours(client: docker.DockerClient) -> None:
    for container in client.containers.list(all=True, filters=OWN, ignore_removed=True):
        container.remove(force=True, v=True)
    for kind in (client.networks, client.volumes):
        for one in kind.list(filters=OWN):
            one.remove()


def go_on(container: Container) -> None:
    """Tell a container's program to go on that waits by `WAITS`."""
    container.reload()
    status = Path(f"/proc/{container.attrs['State']['Pid']}/status")

    def listens() -> bool:
        caught = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        return bool(int(caught, 16) >> signal.SIGUSR2 - 1 & 1)

    wait_for(listens)
    container.kill("SIGUSR2")


def becomes(look: Callable[[], Any], expected: Any, seconds: float = 5.0) -> None:
    """Wait until what is there is what is expected."""
    with contextlib.suppress(AssertionError):
        wait_for(lambda: look() == expected, seconds)
    assert look() == expected


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> float:
    """Wait until a condition holds; return how many seconds it took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise AssertionError(f"did not come true in {seconds} s")
        time.sleep(0.01)
    return time.monotonic() - start


def scrape(web: Web) -> dict[str, float]:
    """The agent's metrics, read twice because a new series is 0 the first time."""
    address = docker.from_env().containers.get("chaosorca-agent").attrs["NetworkSettings"]["Networks"]["chaosorca"]["IPAddress"]
    for _ in range(2):
        with urllib.request.urlopen(f"http://{address}:9309/metrics") as answer:
            text = answer.read().decode()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if not line.startswith("#")}


def orca(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the `chaosorca` command."""
    return subprocess.run(
        [BIN / "chaosorca", *arguments], capture_output=True, text=True, timeout=240, check=False, env=environment
    )
