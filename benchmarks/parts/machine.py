"""The engine, the images and the containers of a benchmark, and the agent that injects its faults."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import docker
from docker.models.containers import Container

from chaosorca.actions.faults import start_fault, stop_fault
from chaosorca.engine.agent import ensure_agent, find_agent, retire_agent
from chaosorca.engine.command import run_command
from chaosorca.probes.faults import faults_injected

ROOT = Path(__file__).parents[2]
IMAGES = {
    **{name: ROOT / "experiments" / name for name in ("nginx", "redis", "postgres")},
    **{name: ROOT / "benchmarks" / "images" / name for name in ("client", "pages", "calls")},
}
"""In the order in which they are built: later images are based on earlier ones."""

PREFIX = "chaosorca-bench"
SETTLE = 1.5
"""Seconds between the end of a fault and the next measurement: the kernel removes uprobes a little later."""


class Wrong(Exception):
    """A count or a figure is not what it must be."""


class Machine:
    """The engine, the containers of this benchmark, and the agent."""

    images: ClassVar[Mapping[str, Path]] = IMAGES

    def __init__(self, injectors: list[str], pairs: int, seconds: float) -> None:
        """
        Arguments:
            injectors: what is compared, by name.
            pairs: how many pairs of runs are made of each.
            seconds: how long a run under load takes.
        """
        self.injectors, self.pairs, self.seconds = injectors, pairs, seconds
        self.client = docker.from_env()
        self.warnings: Counter[str] = Counter()
        self._cleanup = contextlib.ExitStack()
        self._had_agent = find_agent(self.client) is not None
        self._targets: set[str] = set()

    def __enter__(self) -> Self:
        for name, path in self.images.items():
            self.client.images.build(path=str(path), tag=f"{PREFIX}-{name}", rm=True)
        self.start_agent()
        return self

    def start_agent(self) -> None:
        """Start the agent, which then runs during the whole benchmark."""
        ensure_agent(self.client, None)

    def __exit__(self, *_: object) -> None:
        previous = {how: signal.signal(how, signal.SIG_IGN) for how in (signal.SIGINT, signal.SIGTERM)}
        try:
            for target in self._targets:
                with contextlib.suppress(Exception):
                    stop_fault(container=target)
            self._cleanup.close()
            if not self._had_agent:
                retire_agent(self.client)
        finally:
            for how, handler in previous.items():
                signal.signal(how, handler)

    @contextlib.contextmanager
    def container(self, image: str, command: list[str] | None = None, **options: Any) -> Iterator[Container]:
        """Run a container of one of the images; remove it at the end in any case."""
        name = f"{PREFIX}-{image}-{time.monotonic_ns() % 10**9}"
        self._targets.add(name)
        self._cleanup.callback(self._remove, name)
        self.client.containers.run(f"{PREFIX}-{image}", command, name=name, detach=True, **options)
        try:
            yield self.client.containers.get(name)
        finally:
            self._remove(name)

    @contextlib.contextmanager
    def fault(self, target: Container, injector: str, **fault: Any) -> Iterator[Counter[str]]:
        """Keep a fault on a container; afterwards the counter holds the injected calls."""
        injected: Counter[str] = Counter()
        if injector == "none":
            yield injected
            return
        started = start_fault(container=target.name, injector=injector, **fault)
        try:
            if started["injector"] != injector or started["containers"][0]["not_attached"]:
                raise Wrong(f"{injector} did not attach everywhere: {started}")
            self.warnings.update(f"{injector}: {warning}" for warning in started["warnings"])
            yield injected
        finally:
            stopped = stop_fault(container=target.name)["stopped"]
            time.sleep(SETTLE)
        of_this_fault = [one for one in stopped if one["fault"] == started["fault"]]
        if of_this_fault:
            injected.update(of_this_fault[0]["injected"])
        else:  # its budget was spent, so it had ended before
            injected[fault["syscall"]] = faults_injected(str(target.name), fault=started["fault"])

    def new_agent(self) -> None:
        """Replace the agent by a new one, which has read no program yet."""
        if not retire_agent(self.client):
            raise Wrong("the agent is in use: end its faults and monitoring first")
        ensure_agent(self.client, None)

    def _remove(self, name: str) -> None:
        self._targets.discard(name)
        with contextlib.suppress(docker.errors.NotFound):
            self.client.containers.get(name).remove(force=True, v=True)


def execute(container: Container, *command: str) -> str:
    """Run a command in a client container, or in a target without a fault; return its output."""
    ended = run_command(container, command)
    if ended.exit_code != 0:
        raise RuntimeError(f"{command} failed: {(ended.errors or ended.output).decode(errors='replace')[-300:]}")
    return ended.output.decode(errors="replace")


def until(condition: Callable[[], object], within: float = 30.0) -> None:
    """Wait until a condition holds, for at most so many seconds."""
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"the condition did not hold within {within} s")
        time.sleep(0.005)
