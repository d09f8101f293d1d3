"""The target of a round: an nginx that is examined from outside.

Requests go to 127.0.0.1 in the network namespace of the nginx. So requests work on any engine, even while the daemon is down.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker

from tests.support.crashes.model import Engine
from tests.support.waiting import wait_for

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Target:
    """An nginx in a container."""

    def __init__(self, engine: Engine, image: str, restart: str = "no") -> None:
        self.name = f"orca-crash-{time.monotonic_ns() % 10**9}"
        self._engine = engine
        engine.client.containers.run(image, name=self.name, detach=True, restart_policy={"Name": restart})
        self.pid = 0
        wait_for(lambda: self.refresh() and self.get()[0] == 200)

    @property
    def container(self) -> Any:
        """The target's container, as the engine describes it now."""
        return self._engine.client.containers.get(self.name)

    def refresh(self) -> int:
        """Look up the first process, which changes with a restart. Return its id, or 0 if there is no process."""
        self.pid = int(self.container.attrs["State"]["Pid"])
        return self.pid

    def remove(self) -> None:
        """Remove the target's container, if it exists."""
        with contextlib.suppress(docker.errors.NotFound):
            self.container.remove(force=True, v=True)

    def get(self) -> tuple[int, float]:
        """Make a request. Return the status code, or 0 without an answer, and the duration in seconds."""
        begin = time.monotonic()
        try:
            with _network_of(self.pid), _opener.open("http://127.0.0.1/", timeout=1) as answer:
                status = int(answer.status)
                answer.read()
        except urllib.error.HTTPError as error:
            status = error.code
        except OSError:
            status = 0
        return status, time.monotonic() - begin

    def processes(self) -> set[tuple[int, str]]:
        """Return the ids and start times of the target's processes."""
        found = set()
        for pid in processes_in_pid_namespace_of(self.pid):
            with contextlib.suppress(OSError):
                found.add((pid, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]))
        return found

    def threads(self) -> Iterator[tuple[int, str, int]]:
        """Yield each thread's id, state (R, S, T, t, …) and tracer. The tracer is a process id, or 0 for no tracer."""
        for pid in processes_in_pid_namespace_of(self.pid):
            for status in Path(f"/proc/{pid}/task").glob("*/status"):
                with contextlib.suppress(OSError):
                    fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
                    if fields["State"][0] not in "ZX":
                        yield int(fields["Pid"]), fields["State"][0], int(fields["TracerPid"])

    def tracers(self) -> set[int]:
        """Return the ids of the processes that trace the target. The set contains 0 if a thread is not traced."""
        return {tracer for _, _, tracer in self.threads()}


@contextlib.contextmanager
def _network_of(pid: int) -> Iterator[None]:
    """Put this thread into the network namespace of a process."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        other = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            _set_network(other)
        finally:
            os.close(other)
        try:
            yield
        finally:
            _set_network(own)
    finally:
        os.close(own)


def _set_network(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def processes_in_pid_namespace_of(pid: int) -> list[int]:
    """Return all processes in a process's pid namespace, including those of `docker exec`."""
    try:
        namespace = Path(f"/proc/{pid}/ns/pid").stat().st_ino
    except OSError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "ns/pid").stat().st_ino == namespace:
                found.append(int(entry.name))
    return found
