"""Real containers on the real Docker Engine. Every test starts with nothing of ours, and has to leave nothing of ours."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container
from proxy import Proxy

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
OWN = {"label": "chaosorca.role"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may trace, stop or kill processes of containers by hand")


WAITS = "$SIG{USR2} = sub { $go = 1 }; select(undef, undef, undef, 0.05) until $go;"
"""Has a perl program wait until it is told to go on, by `go_on`."""

PAGE = "/var/www/html/index.nginx-debian.html"
"""The one that nginx answers with. A fault on this path alone lets nginx start, whenever it is there."""

SANITIZED = "chaosorca-test-agent:sanitized"
ALREADY_PASSED = "chaosorca/passed"
_STATES_KEPT = 4  # of each Python that the tests are run with


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run also what has passed already on these very files")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "always: run it even where it has passed on these very files")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what has passed on these very files, kernel, engine and Python: a second run is for what is not known yet.

    The main path (`always`) is run every time, everything is with `--all` and in CI.
    """
    config.stash[_state] = state = _digest()
    if config.getoption("--all") or os.environ.get("CI"):
        return
    passed = set(config.cache.get(ALREADY_PASSED, {}).get(state, [])) if config.cache else set()
    left_out = [item for item in items if item.nodeid in passed and not item.get_closest_marker("always")]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
        config.stash[_left_out] = len(left_out)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remember what has passed, its teardown included."""
    cache, state = session.config.cache, session.config.stash.get(_state, "")
    if cache and state:
        known = cache.get(ALREADY_PASSED, {})
        passed = set(known.pop(state, [])) | session.config.stash.get(_passed, set())
        known[state] = sorted(passed - session.config.stash.get(_failed, set()))
        cache.set(ALREADY_PASSED, dict(list(known.items())[-_STATES_KEPT:]))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if number := config.stash.get(_left_out, 0):
        terminalreporter.write_line(f"{number} tests have passed on these very files before and were not run: --all runs them")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        item.config.stash.setdefault(_failed, set()).add(item.nodeid)
    elif report.when == "call" and report.passed:
        item.config.stash.setdefault(_passed, set()).add(item.nodeid)
    return report


_state, _left_out = pytest.StashKey[str](), pytest.StashKey[int]()
_passed, _failed = pytest.StashKey[set[str]](), pytest.StashKey[set[str]]()


def _digest() -> str:
    """Everything that a result depends on, as far as it can be told: files, kernel, engine, Python, user."""
    digest = hashlib.sha256()
    for folder in ("chaosorca", "experiments", "scripts", "tests/integration", "tests/native"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    engine = docker.from_env().info()
    digest.update(f"{platform.release()} {engine['ID']} {engine['ServerVersion']} {sys.version} {os.geteuid()}".encode())
    return digest.hexdigest()


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


@pytest.fixture(scope="session")
def client() -> docker.DockerClient:
    return docker.from_env()


@pytest.fixture(scope="session")
def image(client: docker.DockerClient) -> str:
    """nginx, built as the demo builds it."""
    client.images.build(path=str(ROOT / "experiments" / "nginx"), tag="chaosorca-test-nginx", rm=True)
    return "chaosorca-test-nginx"


@pytest.fixture(scope="session")
def sanitized_agent(client: docker.DockerClient) -> str:
    """The agent's image with its tracer under sanitizers; building it runs the tracer's own tests."""
    from chaosorca.engine.images import ensure_image

    native = ROOT / "tests" / "native"
    with tempfile.TemporaryDirectory() as context:
        shutil.copytree(native, context, dirs_exist_ok=True)
        shutil.copytree(ROOT / "chaosorca" / "agent" / "tracers" / "native", Path(context) / "native")
        client.images.build(path=context, tag=SANITIZED, rm=True, buildargs={"AGENT": ensure_image(client, "agent", None)})
    return SANITIZED


@pytest.fixture
def run_container(client: docker.DockerClient, image: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., Container]]:
    """Start a container from the test's image, with what `docker run` takes; it goes with the test."""
    started: list[Container] = []

    def run(command: Any = None, **options: Any) -> Container:
        options.setdefault("name", f"orca-test-{len(started)}-{time.monotonic_ns() % 10**9}")
        container = client.containers.run(options.pop("image", image), command, detach=True, **options)
        started.append(container)
        return container

    yield run
    for container in started:
        container.remove(force=True, v=True)


@pytest.fixture
def web(run_container: Callable[..., Container]) -> Web:
    """An nginx that answers."""
    container = run_container(ports={"80/tcp": ("127.0.0.1", None)})
    container.reload()
    port = container.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    web = Web(container, f"http://127.0.0.1:{port}/")
    wait_for(lambda: web.get() == 200)
    return web


@pytest.fixture(autouse=True)
def nothing_left(client: docker.DockerClient) -> Iterator[None]:
    """Nothing of ours before, nothing of ours after; what a failed test leaves is taken away for the next one."""
    remove_ours(client)
    yield
    left = ours(client)
    remove_ours(client)
    assert left == [], f"left behind: {left}"


@pytest.fixture
def monitored(web: Web) -> Iterator[Web]:
    """An nginx that is monitored, with a Prometheus on a free port."""
    from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
    from chaosorca.actions.prometheus import start_prometheus, stop_prometheus
    from chaosorca.metrics.measure import wait_for_scrapes
    from chaosorca.sources import open_prometheus

    start_prometheus(port=0)
    start_monitoring(container=web.name)
    wait_for_scrapes(open_prometheus(None), [web.name], 2)
    yield web
    stop_monitoring(container=web.name)
    stop_prometheus()


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


@pytest.fixture
def proxy(client: docker.DockerClient, tmp_path: Path) -> Iterator[Proxy]:
    """The engine by another way."""
    engine = client.api.get_adapter(client.api.base_url)
    if not hasattr(engine, "socket_path"):
        pytest.skip("the engine is not reached by a Unix socket")
    running = Proxy(tmp_path / "s", engine.socket_path)
    yield running
    running.close()
