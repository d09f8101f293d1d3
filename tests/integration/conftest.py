"""Fixtures with real containers on the real Docker Engine. Every test starts without anything of chaosorca, and leaves nothing."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from chaosorca.actions.faults import stop_all_faults
from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.actions.prometheus import start_prometheus, stop_prometheus
from chaosorca.engine.images import ensure_image
from chaosorca.metrics.measure import wait_for_scrapes
from chaosorca.sources import open_prometheus
from tests.support.engine_state import check_leftovers, remove_leftovers
from tests.support.observer import Observers
from tests.support.project import ROOT
from tests.support.proxy import Proxy
from tests.support.waiting import wait_for
from tests.support.web import Web

SANITIZED = "chaosorca-test-agent:sanitized"
ALREADY_PASSED = "chaosorca/passed"
_FOLDERS = ("chaosorca", "experiments", "scripts", "benchmarks", "tests/integration", "tests/support", "tests/native")
_STATES_KEPT = 4  # results for this many states of the files


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also run tests that have passed with the same files")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "always: run the test even if it has passed with the same files")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that have passed with the same files, kernel, engine and Python.

    The main path (`always`) runs every time. With `--all` and in CI all tests run.
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
    """Remember the tests that have passed, including their teardown."""
    stash = session.config.stash
    cache, state = session.config.cache, stash.get(_state, "")
    if cache and state:
        by_state = cache.get(ALREADY_PASSED, {})
        passed, failed = stash.setdefault(_passed, set()), stash.setdefault(_failed, set())
        by_state[state] = sorted((passed | set(by_state.pop(state, []))) - failed)
        cache.set(ALREADY_PASSED, dict(list(by_state.items())[-_STATES_KEPT:]))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if number := config.stash.get(_left_out, 0):
        terminalreporter.write_line(f"{number} tests were left out, because they have passed with the same files: --all runs them")


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
    """Return a digest of everything that a result depends on: files, kernel, engine, Python, user."""
    digest = hashlib.sha256()
    for folder in _FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    engine = docker.from_env().info()
    digest.update(f"{platform.release()} {engine['ID']} {engine['ServerVersion']} {sys.version} {os.geteuid()}".encode())
    return digest.hexdigest()


@pytest.fixture(scope="session")
def client() -> docker.DockerClient:
    return docker.from_env()


@pytest.fixture(scope="session")
def image(client: docker.DockerClient) -> str:
    """An image with nginx, built as the demo builds it."""
    client.images.build(path=str(ROOT / "experiments" / "nginx"), tag="chaosorca-test-nginx", rm=True)
    return "chaosorca-test-nginx"


@pytest.fixture(scope="session")
def sanitized_agent(client: docker.DockerClient) -> str:
    """The agent's image with a tracer built with sanitizers; building it runs the tracer's own tests."""
    native = ROOT / "tests" / "native"
    with tempfile.TemporaryDirectory() as context:
        shutil.copytree(native, context, dirs_exist_ok=True)
        shutil.copytree(ROOT / "chaosorca" / "agent" / "injectors" / "native", Path(context) / "native")
        client.images.build(path=context, tag=SANITIZED, rm=True, buildargs={"AGENT": ensure_image(client, "agent", None)})
    return SANITIZED


@pytest.fixture
def run_container(client: docker.DockerClient, image: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., Container]]:
    """A function that starts a container with options of `docker run`; the container is removed after the test."""
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
    """An nginx that answers requests."""
    container = run_container(ports={"80/tcp": ("127.0.0.1", None)})
    container.reload()
    port = container.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    web = Web(container, f"http://127.0.0.1:{port}/")
    wait_for(lambda: web.get() == 200)
    return web


@pytest.fixture
def load(web: Web) -> Iterator[None]:
    """50 requests a second, for longer than any experiment takes."""
    process = subprocess.Popen([sys.executable, ROOT / "scripts" / "load", web.url, "50", "180"])
    yield
    process.terminate()
    process.wait()


@pytest.fixture(autouse=True)
def nothing_left(client: docker.DockerClient, request: pytest.FixtureRequest) -> Iterator[None]:
    """Start each test without leftovers of chaosorca, and check that the test leaves none.

    Modules with `one_agent_for_all` are checked once, by that fixture.
    """
    if "one_agent_for_all" in request.fixturenames:
        yield
        return
    remove_leftovers(client)
    yield
    check_leftovers(client)


@pytest.fixture(scope="module")
def one_agent_for_all(client: docker.DockerClient) -> Iterator[None]:
    """Keep one agent for all tests of a module: starting one takes longer than most of them do."""
    remove_leftovers(client)
    yield
    stop_all_faults()
    check_leftovers(client)


@pytest.fixture
def end_all_faults(nothing_left: None) -> Iterator[None]:
    """Stop all faults after the test."""
    yield
    stop_all_faults()


@pytest.fixture(scope="module")
def observers(client: docker.DockerClient) -> Iterator[Observers]:
    """The observers of a module's tests."""
    observers = Observers(client)
    yield observers
    observers.remove()


@pytest.fixture
def monitored(web: Web) -> Iterator[Web]:
    """An nginx that is monitored, with a Prometheus on a free port."""
    start_prometheus(port=0)
    start_monitoring(container=web.name)
    wait_for_scrapes(open_prometheus(None), [web.name], 2)
    yield web
    stop_monitoring(container=web.name)
    stop_prometheus()


@pytest.fixture
def proxy(client: docker.DockerClient, tmp_path: Path) -> Iterator[Proxy]:
    """A proxy to the engine's socket."""
    engine = client.api.get_adapter(client.api.base_url)
    if not hasattr(engine, "socket_path"):
        pytest.skip("the engine has no Unix socket")
    running = Proxy(tmp_path / "s", engine.socket_path)
    yield running
    running.close()
