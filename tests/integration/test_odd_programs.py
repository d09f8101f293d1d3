"""Programs that are hard for uprobes: Go, libraries loaded late, code in memory only, threads that block all signals."""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from chaosorca.actions.faults import start_fault, stop_fault
from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.engine.command import run_command
from chaosorca.probes.faults import faults_injected
from tests.support.agent_state import last_fault
from tests.support.observer import INJECTORS
from tests.support.project import ROOT
from tests.support.waiting import becomes, wait_for
from tests.support.web import Web

pytestmark = pytest.mark.usefixtures("one_agent_for_all", "end_all_faults")


GO_PROGRAM = shutil.which("docker-proxy", path="/usr/bin:/usr/sbin:/usr/local/bin:/usr/libexec/docker")
SETTLED = 0.5
"""Seconds after which the agent's report on a quiet program is complete."""

SEEN_WITHIN, TRIES = 100, 3
"""Milliseconds within which new code must have its probes, in at least one of the tries, since the machine may be busy.

The agent polls every 20 ms. Of 12 processes without a traced parent the last was found after 25 ms; of 6 whose code had to be read
first, after 121 ms."""


@pytest.fixture(scope="module")
def go(client: docker.DockerClient, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A server written in Go, with many threads: Docker's own proxy in front of an nginx."""
    if GO_PROGRAM is None:
        pytest.skip("there is no docker-proxy on this machine")
    context = tmp_path_factory.mktemp("go")
    shutil.copy(GO_PROGRAM, context / "docker-proxy")
    (context / "Dockerfile").write_text(f"FROM {image}\nCOPY docker-proxy /\n")
    client.images.build(path=str(context), tag="chaosorca-test-go", rm=True)
    names = [f"orca-go-{kind}-{time.monotonic_ns() % 10**9}" for kind in ("nginx", "proxy")]
    # It reports to its parent on descriptor 3 that it is ready.
    proxy = "exec /docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip 127.0.0.1 -container-port 80 3>/dev/null"
    # With so much garbage collection it often preempts its threads, by SIGURG.
    options = {"network_mode": f"container:{names[0]}", "environment": {"GOGC": "1"}}
    behind = client.containers.run(image, name=names[0], ports={"8080/tcp": ("127.0.0.1", None)}, detach=True)
    try:
        container = client.containers.run("chaosorca-test-go", ["sh", "-c", proxy], name=names[1], detach=True, **options)
        behind.reload()
        port = behind.attrs["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"]
        web = Web(container, f"http://127.0.0.1:{port}/")
        wait_for(lambda: web.get() == 200)
        start_monitoring(container=web.name, http=False, resources=False)  # by the agent that all tests of this module share
        yield web
        stop_monitoring(container=web.name)
    finally:
        for name in names[::-1]:
            client.containers.get(name).remove(force=True, v=True)


def answers(web: Web, number: int, at_once: int = 8) -> Counter[int]:
    """Return the status codes of many requests; 0 for no answer."""
    with ThreadPoolExecutor(at_once) as pool:
        return Counter(pool.map(lambda _: web.get(), range(number)))


def own_signals(pid: int) -> dict[str, str]:
    """Return the signals that a process ignores, and those that it catches."""
    fields = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return {field: value for field, value, *_ in fields if field in ("SigIgn:", "SigCgt:")}


def states(pid: int) -> set[str]:
    """Return the states of a process's threads."""
    paths = Path(f"/proc/{pid}/task").glob("*/stat")
    return {path.read_text().rpartition(")")[2].split()[0] for path in paths}


def test_a_server_written_in_go_under_load(go: Web) -> None:
    pids, signals = go.pids(), own_signals(go.pids()[0])
    started = start_fault(container=go.name, syscall="connect", error="ECONNREFUSED", probability="0.3")  # type: ignore[arg-type]
    assert (started["injector"], started["warnings"]) == ("uprobe", [])
    seen = answers(go, 1000)
    becomes(lambda: last_fault()["coverage"], {"connect": {"made": 1000, "probed": 1000}})
    assert last_fault()["warnings"] == []
    (stopped,) = stop_fault(container=go.name)["stopped"]
    injected = stopped["injected"]["connect"]
    assert 200 < injected < 400
    assert seen == {0: injected, 200: 1000 - injected}, "each hit request has no answer"
    assert answers(go, 200) == {200: 200}
    assert go.pids() == pids
    assert own_signals(pids[0]) == signals
    assert go.tracers() == {0}
    assert states(pids[0]) <= {"S", "R"}


def test_all_calls_of_a_server_written_in_go_come_by_a_probe(go: Web) -> None:
    waits = {"epoll_pwait", "futex"}  # the calls of idle threads: a few are still in flight, or began before the fault
    start_fault(container=go.name, syscall="%network,splice,close,epoll_ctl,nanosleep,tgkill,epoll_pwait,futex", delay_enter="1us")
    assert answers(go, 300) == {200: 300}
    time.sleep(SETTLED)
    fault = last_fault()
    assert {"accept4", "connect", "splice", "close", "epoll_ctl", "setsockopt", *waits} <= set(fault["coverage"])
    for name, calls in fault["coverage"].items():
        few = 20 if name in waits else 0
        assert abs(calls["probed"] - calls["made"]) <= few, name
        assert -few <= calls["probed"] - fault["injected"][name] <= few, name
    assert (fault["injector"], fault["warnings"]) == ("uprobe", [])
    stop_fault(container=go.name)
    assert answers(go, 50) == {200: 50}


@pytest.mark.parametrize("injector", INJECTORS)
def test_a_server_written_in_go_shows_the_same_under_each_injector(injector: str, go: Web) -> None:
    seen: dict[str, Any] = {}
    faults: dict[str, dict[str, Any]] = {
        "refused": {"syscall": "connect", "error": "ECONNREFUSED"},
        "broken": {"syscall": "splice", "error": "EIO"},
        "copied in another way": {"syscall": "splice", "error": "EINVAL"},
        "slow": {"syscall": "connect", "delay_enter": "60ms", "delay_exit": "60ms"},
    }
    for name, fault in faults.items():
        started = start_fault(container=go.name, injector=injector, **fault)
        assert started["injector"] == injector
        begin = time.monotonic()
        seen[name] = (dict(answers(go, 8, at_once=2)),)
        assert name != "slow" or time.monotonic() - begin >= 4 * 0.12
        (stopped,) = stop_fault(container=go.name)["stopped"]
        seen[name] += (stopped["injected"].get("connect"),)
        assert answers(go, 8) == {200: 8}
        assert go.tracers() == {0}
    assert seen == {
        "refused": ({0: 8}, 8),
        "broken": ({0: 8}, None),
        "copied in another way": ({200: 8}, None),
        "slow": ({200: 8}, 8),
    }


class Odd:
    """A container with one of the odd programs (inside/odd.c)."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.name = str(container.name)

    def output(self) -> list[str]:
        return self.container.logs().decode().splitlines()

    def go(self) -> list[int]:
        """Have it make its calls; return the figures that it prints."""
        before = len(self.output())
        self.container.kill("SIGUSR1")
        wait_for(lambda: len(self.output()) > before, 60)
        time.sleep(SETTLED)
        return [int(word) for word in self.output()[-1].split()]


@pytest.fixture(scope="module")
def odd_image(client: docker.DockerClient) -> str:
    client.images.build(path=str(ROOT / "tests" / "integration" / "inside"), tag="chaosorca-test-inside", rm=True)
    return "chaosorca-test-inside"


@pytest.fixture
def odd(odd_image: str, run_container: Callable[..., Container]) -> Iterator[Callable[..., Odd]]:
    """A function that starts an odd program and the monitoring of its calls."""
    started: list[Odd] = []

    def start(kind: str, path: str = "/observer/odd") -> Odd:
        program = Odd(run_container([path, kind], image=odd_image))
        wait_for(lambda: program.output() == ["ready"])
        start_monitoring(container=program.name, http=False, resources=False)
        started.append(program)
        return program

    yield start
    for program in started:
        stop_monitoring(container=program.name)


def coverage() -> Counter[str]:
    return Counter(last_fault()["coverage"].get("getppid", {}))


def soon(begin: Callable[[], list[int]]) -> tuple[int, int]:
    """Start new code; return how many of its calls passed before it had probes, and how many were hit."""
    for _ in range(TRIES):
        passed, last, hit = begin()
        print(f"{passed} calls passed, the last {last} ms after it was there; {hit} were hit")  # noqa: T201
        assert hit > 50
        if last < SEEN_WITHIN:
            return passed, hit
    raise AssertionError(f"the new code had its probes only after {last} ms")


def test_a_library_that_is_loaded_during_the_fault(odd: Callable[[str], Odd]) -> None:
    programs: list[Odd] = []

    def load() -> list[int]:
        programs.append(odd("loads"))
        start_fault(container=programs[-1].name, syscall="getppid", error="EACCES", injector="uprobe")
        return programs[-1].go()

    passed, hit = soon(load)
    program = programs[-1]
    becomes(coverage, {"made": passed + hit, "probed": hit})
    assert program.go() == [100]
    becomes(coverage, {"made": passed + hit + 100, "probed": hit + 100})
    becomes(lambda: faults_injected(program.name), hit + 100)
    (stopped,) = stop_fault(container=program.name)["stopped"]
    assert stopped["injected"] == {"getppid": hit + 100}
    assert program.go() == [0]


def test_calls_of_code_without_a_file_pass_and_are_reported(odd: Callable[[str], Odd]) -> None:
    program = odd("makes")
    start_fault(container=program.name, syscall="getppid", error="EACCES", injector="uprobe")
    passed, _, hit = program.go()
    assert hit == 0 and passed > 50
    becomes(coverage, {"made": passed, "probed": 0})
    assert last_fault()["warnings"] == ["some calls of getppid come from code that cannot have a probe: these calls are not hit"]
    stop_fault(container=program.name)
    start_fault(container=program.name, syscall="getppid", error="EACCES", injector="ptrace")
    assert program.go() == [100]


@pytest.mark.parametrize(
    "faults", [{"error": "EACCES"}, {"error": "EACCES", "delay_exit": "1ms"}, {"error": "EACCES", "when": "1+2"}]
)
def test_calls_of_a_thread_that_blocks_all_signals_are_hit(faults: dict[str, Any], odd: Callable[[str], Odd]) -> None:
    program = odd("blocks")
    started = start_fault(container=program.name, syscall="getppid", **faults)
    assert (started["injector"], started["warnings"]) == ("uprobe", [])
    hits = 50 if "when" in faults else 100
    assert program.go() == [hits, hits]
    becomes(lambda: faults_injected(program.name), 2 * hits)
    becomes(coverage, {"made": 200, "probed": 200})
    assert last_fault()["warnings"] == []
    stop_fault(container=program.name)
    assert program.go() == [0, 0]


def test_a_program_with_32_bit_calls_is_left_to_ptrace(odd: Callable[..., Odd]) -> None:
    """It never makes one, but its code has an `int $0x80`."""
    program = odd("loads", "/observer/odd-old")
    started = start_fault(container=program.name, syscall="getppid", error="EACCES")
    assert started["injector"] == "ptrace"
    (warning,) = started["warnings"]
    assert "it is injected by ptrace, which stops every system call, and not by uprobes: " in warning
    assert re.search(r"/observer/odd-old enters the kernel at 0x[0-9a-f]+ by int 0x80$", warning)
    assert program.go()[2] > 50
    assert program.go() == [100]
    (stopped,) = stop_fault(container=program.name)["stopped"]
    assert warning.endswith(stopped["warnings"][0])
    assert program.go() == [0]


def test_two_containers_of_one_image_have_one_probe_for_each_place(odd: Callable[[str], Odd]) -> None:
    programs = [odd("blocks"), odd("blocks")]
    for program in programs:
        start_fault(container=program.name, syscall="getppid", error="EACCES", when="1+2", injector="uprobe")
    assert [program.go() for program in programs] == [[50, 50]] * 2
    becomes(coverage, {"made": 200, "probed": 200})
    becomes(lambda: [faults_injected(program.name) for program in programs], [100, 100])


def test_a_program_that_waits_for_its_own_signals_gets_each_of_them(odd: Callable[[str], Odd]) -> None:
    """One thread sends another SIGURG and SIGALRM thousands of times a second, while SIGURG also arms that thread."""
    program = odd("asks")
    start_fault(container=program.name, syscall="getppid", error="EACCES", injector="uprobe")
    sent, arrived, hit = program.go()
    assert arrived == sent == 20000, "each signal as it was sent"
    becomes(lambda: faults_injected(program.name), hit)
    assert hit > 1000


@pytest.mark.parametrize("program", ["odd", "odd-static"])
def test_a_program_that_is_executed_in_the_container_from_outside(program: str, odd: Callable[[str], Odd]) -> None:
    target = odd("loads")
    start_fault(container=target.name, syscall="getppid", error="EACCES", process=f"/observer/{program} now", injector="uprobe")
    hits = []

    def execute() -> list[int]:
        figures = [int(word) for word in run_command(target.container, [f"/observer/{program}", "now"]).output.split()]
        hits.append(figures[2])
        return figures

    soon(execute)
    becomes(lambda: faults_injected(target.name), sum(hits))


def test_a_program_that_begins_with_its_container(odd_image: str, run_container: Callable[..., Container]) -> None:
    target = Odd(run_container(["sh", "-c", "/observer/odd now; sleep 60"], image=odd_image))
    wait_for(lambda: len(target.output()) == 1)
    start_fault(container=target.name, syscall="getppid", error="EACCES", injector="uprobe")

    def restart() -> list[int]:
        before = len(target.output())
        target.container.restart(timeout=0)
        wait_for(lambda: len(target.output()) > before)
        return [int(word) for word in target.output()[-1].split()]

    soon(restart)
