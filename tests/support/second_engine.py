"""A second Docker Engine beside the machine's own, for tests that stop and start the daemon itself.

The second engine shares nothing with the first one. It has its own containerd, control group, directories and socket. Its own
network namespace prevents it from removing the first engine's `docker0` as a leftover. Only one second engine runs at a time,
always in the same directory. Each one first removes the leftovers of an earlier one that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import docker
import requests

BASE = Path("/var/tmp/chaosorca-second-engine")  # not in /tmp, which may be in memory, because the images need half a gigabyte
_CGROUP = "chaosorca-second-engine"
_STARTS_WITHIN, _STOPS_WITHIN = 30.0, 40.0


class SecondEngine:
    """A daemon that can be stopped and started. Its containerd keeps running."""

    host = f"unix://{BASE}/docker.sock"
    configuration: dict[str, Any] = {"chaosorca_docker_host": host}  # noqa: RUF012

    def __init__(self) -> None:
        self.live_restore = False
        self._client: docker.DockerClient | None = None
        self._daemon: subprocess.Popen[bytes] | None = None
        self._containerd = self._start_containerd()

    @property
    def client(self) -> docker.DockerClient:
        """A client of the running daemon."""
        if self._client is None:
            self._client = docker.DockerClient(base_url=self.host)
        return self._client

    def start(self, live_restore: bool) -> None:
        """Start the daemon, and wait until it answers."""
        self.live_restore = live_restore
        config = {
            "hosts": [self.host],
            "data-root": f"{BASE}/data",
            "exec-root": f"{BASE}/run",
            "pidfile": f"{BASE}/docker.pid",
            "containerd": f"{BASE}/containerd.sock",
            "cgroup-parent": f"/{_CGROUP}",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "live-restore": live_restore,
        }
        (BASE / "daemon.json").write_text(json.dumps(config))
        # `ip netns exec` would hide the control groups, because it mounts a new /sys.
        namespace = f"--net=/proc/{self._containerd.pid}/ns/net"
        self._daemon = _start(["nsenter", namespace, "dockerd", "--config-file", f"{BASE}/daemon.json"], "docker.log")
        self._wait_for(self._answers, self._daemon, "docker.log")

    def stop(self) -> None:
        """End the daemon by SIGTERM, as an administrator does, and wait for its end."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._daemon is not None:
            _end(self._daemon, _STOPS_WITHIN)
            self._daemon = None

    def load(self, images: Sequence[str]) -> None:
        """Copy images from the machine's own engine. Shared layers are copied only once."""
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as save:
            subprocess.run(
                ["docker", "--host", self.host, "load", "--quiet"], stdin=save.stdout, stdout=subprocess.DEVNULL, check=True
            )
        if save.returncode:
            raise RuntimeError(f"docker save of {', '.join(images)} failed with {save.returncode}")

    def close(self) -> None:
        """Remove all containers, and end the daemons."""
        with contextlib.suppress(docker.errors.DockerException, requests.RequestException, RuntimeError):
            if self._daemon is None:
                self.start(self.live_restore)
            for container in self.client.containers.list(all=True, ignore_removed=True):
                container.remove(force=True, v=True)
        self.stop()
        _end(self._containerd, _STOPS_WITHIN)

    def _start_containerd(self) -> subprocess.Popen[bytes]:
        (BASE / "containerd.toml").write_text(
            f'version = 2\nroot = "{BASE}/containerd"\nstate = "{BASE}/containerd-run"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{BASE}/containerd.sock"\n'
        )
        # The network namespace belongs to containerd, so it outlives the daemon.
        process = _start(["unshare", "--net", "containerd", "--config", f"{BASE}/containerd.toml"], "containerd.log")
        self._wait_for((BASE / "containerd.sock").exists, process, "containerd.log")
        return process

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except (docker.errors.DockerException, requests.RequestException):
            self._client = None
            return False

    def _wait_for(self, condition: Callable[[], bool], process: subprocess.Popen[bytes], log: str) -> None:
        end = time.monotonic() + _STARTS_WITHIN
        while not condition():
            if process.poll() is not None or time.monotonic() > end:
                said = (BASE / log).read_text(errors="replace")[-1000:]
                raise RuntimeError(f"{process.args!r} did not start; its log ends with: {said}")
            time.sleep(0.02)


@contextlib.contextmanager
def second_engine(images: Sequence[str], live_restore: bool = False) -> Iterator[SecondEngine]:
    """Run a second engine with images of the first one. Remove all parts of the second engine afterwards."""
    with _only_one():
        _clean_up()
        BASE.mkdir(parents=True)
        try:
            engine = SecondEngine()
            try:
                engine.start(live_restore)
                engine.load(images)
                yield engine
            finally:
                engine.close()
        finally:
            _clean_up()


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Wait until there is no other second engine. The lock is on the parent directory, so it leaves no file."""
    directory = os.open(BASE.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _start(command: list[str], log: str) -> subprocess.Popen[bytes]:
    with (BASE / log).open("ab") as output:
        # The process has its own session, so that Ctrl-C ends the test and not the daemon.
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)


def _end(process: subprocess.Popen[bytes], within: float) -> None:
    process.terminate()
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _clean_up() -> None:
    """End all processes of the second engine, including those of an earlier test that was killed. Remove all its files."""
    end = time.monotonic() + 10
    while (pids := _processes()) and time.monotonic() < end:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    for mount in _mounts():
        subprocess.run(["umount", "--lazy", mount], check=False)
    shutil.rmtree(BASE, ignore_errors=True)
    for group in _cgroups():
        with contextlib.suppress(OSError):
            group.rmdir()


def _processes() -> list[int]:
    """Return the ids of the containers' processes, and of daemons and shims with our directory in their command lines."""
    found: set[int] = set()
    for group in _cgroups():
        with contextlib.suppress(OSError):
            found.update(int(pid) for pid in (group / "cgroup.procs").read_text().split())
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if Path(words[0]).name in _DAEMONS and any(word.startswith(f"{BASE}/") for word in words):
                    found.add(int(entry.name))
    return sorted(found)


_DAEMONS = {"dockerd", "containerd", "containerd-shim-runc-v2", "containerd-shim", "docker-proxy"}


def _cgroups() -> list[Path]:
    """Return the control groups of the containers in cgroup v2 or in the hierarchies of v1. The deepest groups come first."""
    root = Path("/sys/fs/cgroup")
    tops = [root / _CGROUP, *(root / one.name / _CGROUP for one in root.iterdir() if one.is_dir())]
    return [
        group for top in tops if top.is_dir() for group in [*sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True), top]
    ]


def _mounts() -> list[str]:
    """Return the mounts below our directory. The deepest mounts come first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((point for point in points if point.startswith(f"{BASE}/")), reverse=True)
