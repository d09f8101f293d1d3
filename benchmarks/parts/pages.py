"""nginx under wrk: one page that it may read, and one that it may not."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator

from docker.models.containers import Container

from benchmarks.parts.machine import Machine, Wrong, execute, until


class Pages:
    """An nginx with its two pages, and wrk in its network."""

    def __init__(self, machine: Machine, web: Container, client: Container) -> None:
        self._machine, self._web, self._client = machine, web, client
        until(lambda: web.exec_run(["test", "-s", "/run/nginx.pid"]).exit_code == 0)
        for page, status in (("open", 200), ("closed", 403)):
            self.requests_per_second(page)
            if set(self.answers()) != {status}:
                raise Wrong(f"the {page} page is not answered by {status}")

    def requests_per_second(self, page: str) -> float:
        """Return the throughput of a page under 8 connections."""
        seconds = self._machine.seconds
        url = f"http://127.0.0.1:80/{page}.html"
        output = execute(self._client, "wrk", "-t1", "-c8", f"-d{max(1, round(seconds))}s", url)
        found = re.search(r"Requests/sec:\s+([0-9.]+)", output)
        if not found:
            raise RuntimeError(f"wrk printed no rate: {output!r}")
        return float(found[1])

    def answers(self) -> Counter[int]:
        """Return the number of answers by status since the last call, from nginx's own log."""
        script = "awk '{n[$9]++} END {for (s in n) print s, n[s]}' /var/log/nginx/access.log; : > /var/log/nginx/access.log"
        lines = execute(self._web, "sh", "-c", script).splitlines()
        return Counter({int(status): int(count) for status, count in map(str.split, lines)})


@contextlib.contextmanager
def pages(machine: Machine) -> Iterator[tuple[Pages, Container]]:
    """Run nginx and its client."""
    with (
        machine.container("pages", ports={"80/tcp": ("127.0.0.1", None)}) as web,
        machine.container("client", network_mode=f"container:{web.name}") as client,
    ):
        yield Pages(machine, web, client), web
