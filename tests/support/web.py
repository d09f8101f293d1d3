"""A container with an HTTP server, as a test sees it from the host."""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from docker.models.containers import Container

PAGE = "/var/www/html/index.nginx-debian.html"
"""The page that nginx answers with. nginx can start under a fault that is limited to this path."""


@dataclass
class Web:
    """A container that serves HTTP on a port of 127.0.0.1."""

    container: Container
    url: str

    @property
    def name(self) -> str:
        """The container's name."""
        return str(self.container.name)

    def get(self, path: str = "") -> int:
        """Make a request. Return the status code, or 0 if there was no answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def pids(self) -> list[int]:
        """Return the ids that the container's processes have on the host."""
        return host_pids(self.container)

    def tracers(self) -> set[int]:
        """Return the ids of the processes that trace the container's threads. Return {0} if there are none."""
        return tracers_of(self.container)


def host_pids(container: Container) -> list[int]:
    """Return the ids that a container's processes have on the host."""
    top = container.top()
    return sorted(int(process[top["Titles"].index("PID")]) for process in top["Processes"])


def tracers_of(container: Container) -> set[int]:
    """Return the ids of the processes that trace a container's threads. Return {0} if there are none."""
    found = set()
    for pid in host_pids(container):
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            found.add(int(next(line for line in status.read_text().splitlines() if line.startswith("TracerPid")).split()[1]))
    return found
