"""Containers under monitoring, and under other ways to observe them: bpftrace, tshark, and a pair of empty programs."""

from __future__ import annotations

import contextlib
import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import docker
from docker.models.containers import Container

from benchmarks.parts.machine import IMAGES, ROOT, Machine, Wrong, until
from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.engine.agent import find_agent
from chaosorca.engine.images import ensure_image
from chaosorca.model.capabilities import CAPABILITIES
from chaosorca.model.contract import AGENT, METRICS_PORT, NETWORK

PROBES = "tracepoint:syscalls:sys_enter_* /pid == {pid}/ {{ @[probe] = count(); }}"
"""The bpftrace program of the paper, for one process."""
_TRACEFS = "mount -t tracefs none /sys/kernel/tracing; mount -t debugfs none /sys/kernel/debug; exec bpftrace -e '{program}'"
_FEWEST_PROBES = 300
_TSHARK = ("tshark", "-i", "lo", "-f", "tcp port 80", "-Y", "http.response", "-T", "fields", "-e", "http.response.code", "-l")
_QUIET = 5  # hundredths of a second of processor time in half a second


class Observed(Machine):
    """The engine, with an agent only while something is monitored."""

    images: ClassVar[Mapping[str, Path]] = {**IMAGES, "observers": ROOT / "benchmarks" / "images" / "observers"}

    def start_agent(self) -> None:
        """Make the agent's image, and refuse to begin while an agent runs."""
        ensure_image(self.client, "agent", None)
        if find_agent(self.client) is not None:
            raise SystemExit("an agent runs already, and this compares with none: end its faults and monitoring first")

    @contextlib.contextmanager
    def monitored(self, *containers: Container, **monitors: Any) -> Iterator[None]:
        """Monitor containers with an agent that is started and removed here."""
        try:
            for container in containers:
                start_monitoring(container=container.name, **monitors)
            self._settle()
            yield
        finally:
            for container in containers:
                stop_monitoring(container=container.name)
            if find_agent(self.client) is not None:
                raise Wrong("the agent is in use: end its faults and other monitoring first")

    def _settle(self) -> None:
        """Wait until the agent has read the programs of new containers, which takes some seconds."""
        pid = self.client.containers.get(AGENT).attrs["State"]["Pid"]

        def ticks() -> int:
            return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))

        def is_quiet() -> bool:
            before = ticks()
            time.sleep(0.5)
            return ticks() - before <= _QUIET

        until(is_quiet, 60)

    def beside(self, container: Container, command: list[str]) -> contextlib.AbstractContextManager[Container]:
        """Run a client in a container's network."""
        return self.container("client", command, network_mode=f"container:{container.name}")

    @contextlib.contextmanager
    def observer(self, command: list[str], ready: Callable[[Container], object], **options: Any) -> Iterator[Container]:
        """Run another observer, and wait until it is ready."""
        capabilities = {"cap_drop": ["ALL"], "cap_add": list(CAPABILITIES), "security_opt": ["seccomp=unconfined"]}
        with self.container("observers", command, **{**capabilities, **options}) as container:
            until(lambda: ready(container), 60)
            yield container

    @contextlib.contextmanager
    def floor(self) -> Iterator[None]:
        """Attach two empty programs to the entry and the exit of every system call."""
        with self.observer(["/usr/local/lib/floor/floor", "/usr/local/lib/floor/floor.o"], lambda one: b"attached" in one.logs()):
            yield

    @contextlib.contextmanager
    def bpftrace(self, pids: list[int]) -> Iterator[Container]:
        """Run one bpftrace for each process, as the paper does; yield the last one."""
        with contextlib.ExitStack() as stack:
            last = None
            for pid in pids:
                script = _TRACEFS.format(program=PROBES.format(pid=pid))
                last = stack.enter_context(self.observer(["sh", "-c", script], _Attached(), pid_mode="host"))
                stack.callback(end_bpftrace, last)
            if last is None:
                raise Wrong("there is no process for bpftrace")
            yield last

    @contextlib.contextmanager
    def tshark(self, web: Container) -> Iterator[None]:
        """Capture a container's HTTP answers, and print their codes."""
        with self.observer(
            ["sh", "-c", " ".join(f"'{word}'" for word in _TSHARK) + " >/dev/null"],
            lambda one: b"Capturing on" in one.logs(),
            network_mode=f"container:{web.name}",
        ):
            time.sleep(1)
            yield


class _Attached:
    """Tells when bpftrace has attached all of its probes: it does not print that, but its open files stop to increase."""

    def __init__(self) -> None:
        self._seen, self._since = 0, time.monotonic()

    def __call__(self, container: Container) -> bool:
        container.reload()
        if container.status == "exited":
            raise Wrong(f"bpftrace has ended: {container.logs().decode()[-300:]}")
        pid = container.attrs["State"]["Pid"]
        try:
            number = len(list(Path(f"/proc/{pid}/fd").iterdir())) if pid else 0
        except OSError:
            number = 0
        if number != self._seen:
            self._seen, self._since = number, time.monotonic()
        time.sleep(0.1)
        return number > _FEWEST_PROBES and time.monotonic() - self._since > 1


def end_bpftrace(container: Container) -> None:
    """Have bpftrace detach its probes, which takes longer than the engine waits when it removes a container."""
    with contextlib.suppress(docker.errors.APIError):
        container.kill("SIGINT")
    container.wait(timeout=120)


def scrape(machine: Observed) -> tuple[float, dict[str, float]]:
    """Return how many seconds a scrape took, and its figures."""
    address = machine.client.containers.get(AGENT).attrs["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]
    began = time.monotonic()
    with urllib.request.urlopen(f"http://{address}:{METRICS_PORT}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    took = time.monotonic() - began
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return took, {name: float(value) for name, value in lines}


def total(figures: Mapping[str, float], metric: str) -> float:
    """Return the sum of a metric's series."""
    return sum(value for name, value in figures.items() if name.startswith(metric))


def anonymous_memory(machine: Machine) -> int:
    """Return the anonymous memory of the agent's process in bytes."""
    pid = machine.client.containers.get(AGENT).attrs["State"]["Pid"]
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
