"""Faults on real containers: what the program sees, what is counted, and that nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from statistics import median

import docker
import pytest
from chaoslib.exceptions import ActivityFailed
from docker.models.containers import Container

from chaosorca.actions.faults import start_fault, stop_all_faults, stop_fault
from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.engine.agent import find_agent
from chaosorca.engine.client import connect
from chaosorca.engine.command import run_command
from chaosorca.model.contract import AGENT
from chaosorca.probes.faults import fault_active, faults_injected
from tests.support.agent_state import agent_status, scrape
from tests.support.engine_state import leftovers
from tests.support.held_program import HOLD, resume
from tests.support.project import needs_root
from tests.support.proxy import Proxy
from tests.support.waiting import wait_for
from tests.support.web import PAGE, Web

_OPEN = 'print open(F, "<", "/etc/hostname") ? "open" : $!, "\\n";'

pytestmark = pytest.mark.usefixtures("end_all_faults")


@pytest.mark.always
def test_a_fault_hits_every_process_until_it_is_stopped(web: Web) -> None:
    started = start_fault(container=web.name, syscall="openat", error="ENOENT")
    (target,) = started["containers"]
    assert target == {"name": web.name, "id": web.container.id, "attached": len(web.pids()), "not_attached": []}
    assert (started["injector"], started["syscalls"], started["effects"], started["warnings"]) == (
        "uprobe",
        ["openat"],
        ["error"],
        [],
    )
    assert started["begins"] < started["ends"]
    assert 0 not in web.tracers()
    assert fault_active(web.name) is True
    assert faults_injected(web.name) == 0

    assert [web.get() for _ in range(20)] == [404] * 20
    wait_for(lambda: faults_injected(web.name) == 20, 2)

    (stopped,) = stop_fault(container=web.name)["stopped"]
    assert stopped["fault"] == started["fault"]
    assert stopped["injected"] == {"openat": 20}
    assert web.tracers() == {0}
    assert [web.get() for _ in range(5)] == [200] * 5
    assert fault_active(web.name) is False
    assert faults_injected(web.name, syscall="openat", fault=started["fault"]) == 20
    assert faults_injected(web.name, syscall="read") == 0


@pytest.mark.parametrize("where", ["delay_enter", "delay_exit"])
def test_a_delay_holds_each_call_for_its_time(where: str, web: Web) -> None:
    start_fault(container=web.container.short_id, syscall="openat", **{where: "150ms"})  # type: ignore[arg-type]
    for _ in range(3):
        begin = time.monotonic()
        assert web.get() == 200
        assert 0.15 < time.monotonic() - begin < 1.0
    wait_for(lambda: faults_injected(web.name) == 3, 2)


def test_several_system_calls_and_both_effects_in_one_fault(web: Web) -> None:
    start_fault(container=web.name, syscall="openat,pread64", error="EIO", delay_enter="100ms")
    begin = time.monotonic()
    assert web.get() in (403, 500)
    assert time.monotonic() - begin > 0.1


def test_when_counts_the_calls_of_each_thread(run_container: Callable[..., Container]) -> None:
    container = run_perl(run_container, f"for (1..8) {{ {_OPEN} }}")
    start_fault(container=container.name, syscall="openat", error="EMFILE", when="3..7+2")
    open_, failed = "open", "Too many open files"
    assert lines(container, 8) == [open_, open_, failed, open_, failed, open_, failed, open_]
    assert stop_fault(container=container.name)["stopped"][0]["injected"] == {"openat": 3}


def run_perl(run_container: Callable[..., Container], script: str) -> Container:
    """Start a perl program that waits for `resume`, so that a fault can be attached, and then works without a pause."""
    return run_container(["perl", "-e", f"$| = 1; {HOLD} {script} sleep 60"])


def lines(container: Container, count: int) -> list[str]:
    """Resume the program; return what it prints."""
    resume(container)
    wait_for(lambda: len(container.logs().splitlines()) == count)
    return container.logs().decode().splitlines()


def test_a_forged_result_is_what_the_program_sees(run_container: Callable[..., Container]) -> None:
    container = run_perl(run_container, 'for (1..4) { print getppid(), "\\n" }')
    start_fault(container=container.name, syscall="getppid", retval=4711, when="2+2")  # type: ignore[arg-type]
    assert lines(container, 4) == ["0", "4711", "0", "4711"]
    wait_for(lambda: faults_injected(container.name) == 2, 2)


@pytest.mark.parametrize(("when", "number"), [(None, 6), ("2+2", 3), ("2..3", 2), ("5", 1)])
def test_a_signal_arrives_and_is_counted(when: str | None, number: int, run_container: Callable[..., Container]) -> None:
    container = run_perl(run_container, '$SIG{USR1} = sub { $n++ }; for (1..6) { getppid() } print "$n\\n";')
    start_fault(container=container.name, syscall="getppid", signal="USR1", when=when)
    assert lines(container, 1) == [str(number)]
    wait_for(lambda: faults_injected(container.name) == number, 2)


def test_a_signal_that_kills_is_counted(run_container: Callable[..., Container]) -> None:
    container = run_perl(run_container, "getppid(); getppid();")
    start_fault(container=container.name, syscall="getppid", signal="SIGKILL", when="2")
    resume(container)
    assert container.wait(timeout=10)["StatusCode"] == 137
    wait_for(lambda: faults_injected(container.name) == 1, 2)


def test_families_and_classes(run_container: Callable[..., Container]) -> None:
    container = run_perl(run_container, f'{_OPEN} print mkdir("/new") ? "made" : $!, "\\n"; print getppid(), "\\n";')
    started = start_fault(container=container.name, syscall="open*,%file", error="EROFS")
    assert started["syscalls"][:4] == ["open", "openat", "openat2", "creat"]
    assert "mkdir" in started["syscalls"]
    assert lines(container, 3) == ["Read-only file system", "Read-only file system", "0"]
    wait_for(lambda: faults_injected(container.name, syscall="openat") == 1, 2)
    assert stop_fault(container=container.name, syscall="%network") == {"stopped": []}
    assert [one["fault"] for one in stop_fault(container=container.name, syscall="open*")["stopped"]] == [started["fault"]]


def test_a_placebo_is_attached_and_injects_nothing(web: Web) -> None:
    started = start_fault(container=web.name, syscall="openat", error="EACCES", placebo="true")  # type: ignore[arg-type]  # as a configuration has it
    assert started["containers"][0]["attached"] == len(web.pids())
    assert 0 not in web.tracers()
    assert [web.get() for _ in range(200)] == [200] * 200
    assert fault_active(web.name) is True
    (stopped,) = stop_fault(container=web.name)["stopped"]
    assert (stopped["placebo"], stopped["injected"]) == (True, {})
    assert web.tracers() == {0}


def test_a_dry_run_names_its_targets_and_touches_none(web: Web, client: docker.DockerClient) -> None:
    plan = start_fault(container=web.name, syscall="openat", error="EACCES", dry_run=True)
    assert plan["containers"] == [{"name": web.name, "id": web.container.id, "attached": len(web.pids()), "not_attached": []}]
    assert (plan["fault"], plan["begins"], plan["syscalls"]) == (None, None, ["openat"])
    assert web.tracers() == {0}
    assert leftovers(client) == []
    start_fault(container=web.name, syscall="openat", error="EACCES")
    with pytest.raises(ActivityFailed, match="already has fault 'openat:error=EACCES'"):
        start_fault(container=web.name, syscall="read,openat", error="EIO", dry_run=True)


def test_a_label_selects_several_and_either_all_or_none_get_the_fault(run_container: Callable[..., Container]) -> None:
    value = str(time.monotonic_ns())
    containers = [run_container(["sleep", "60"], labels={"orca-test": value}) for _ in range(3)]
    names = sorted(container.name for container in containers)
    started = start_fault(label=f"orca-test={value}", syscall="openat", error="EACCES")
    assert [one["name"] for one in started["containers"]] == names
    assert [fault_active(name) for name in names] == [True] * 3
    stop_fault(container=names[1])
    assert [fault_active(name) for name in names] == [True, False, True]
    with pytest.raises(ActivityFailed, match="already"):
        start_fault(label=f"orca-test={value}", syscall="read,openat", error="EIO")
    assert [fault_active(name) for name in names] == [True, False, True], "the container in the middle keeps no part of the fault"
    assert sorted(one["container"] for one in stop_fault(label=f"orca-test={value}")["stopped"]) == [names[0], names[2]]


def test_a_fault_ends_by_itself_after_its_duration(web: Web) -> None:
    start_fault(container=web.name, syscall="openat", error="EACCES", duration="1500ms")
    assert web.get() == 403
    took = wait_for(lambda: web.get() == 200, 5)
    assert took < 2.5
    assert fault_active(web.name) is False
    assert web.tracers() == {0}


def test_answers_that_come_all_at_once_are_read(web: Web, proxy: Proxy) -> None:
    """The proxy delays the headers until the agent has answered, as if this process were slow."""
    proxy.gathers = True
    assert find_agent(connect()) is None
    started = start_fault(container=web.name, syscall="openat", error="EACCES", path=PAGE, configuration=proxy.configuration)
    assert web.get() == 403
    stopped = stop_fault(container=web.name, configuration=proxy.configuration)
    assert [one["fault"] for one in stopped["stopped"]] == [started["fault"]]
    assert web.get() == 200


def test_children_and_processes_of_docker_exec_get_the_fault(web: Web) -> None:
    start_fault(container=web.name, syscall="openat", error="EACCES", path="/etc/hostname")
    loop = f"$| = 1; for (1..10) {{ select(undef, undef, undef, 0.2); {_OPEN} }} fork; {_OPEN} wait"
    lines = run_command(web.container, ["perl", "-e", loop]).output.decode().splitlines()
    assert lines[-7:] == ["Permission denied"] * 7, "the process and its child are attached within a second"


def test_a_second_fault_on_the_same_system_call_is_refused(web: Web) -> None:
    start_fault(container=web.name, syscall="openat", error="EACCES")
    with pytest.raises(ActivityFailed, match="has the fault 'openat:error=EACCES' on openat already"):
        start_fault(container=web.name, syscall="read,openat", error="EIO")
    assert web.get() == 403, "the first fault stays in force"


def test_faults_on_two_containers_run_side_by_side(web: Web, run_container: Callable[..., Container]) -> None:
    other = run_container(["sleep", "60"])
    start_fault(container=web.name, syscall="openat", error="EACCES")
    start_fault(container=other.name, syscall="openat", error="EACCES")
    stop_fault(container=other.name)
    assert web.get() == 403
    stopped = stop_all_faults()["stopped"]
    assert [one["container"] for one in stopped] == [web.name]
    assert web.get() == 200


def test_stopping_where_there_is_nothing_is_success(web: Web) -> None:
    assert stop_fault(container=web.name) == {"stopped": []}
    assert stop_all_faults() == {"stopped": []}
    assert fault_active(web.name) is False
    with pytest.raises(ActivityFailed, match="no fault was started"):
        faults_injected(web.name)


@needs_root
def test_a_container_that_is_traced_already_is_left_alone(web: Web) -> None:
    pid = web.pids()[0]
    debugger = subprocess.Popen([sys.executable, "-c", _DEBUGGER, str(pid)])
    try:
        wait_for(lambda: debugger.pid in web.tracers())
        with pytest.raises(ActivityFailed, match=rf"being traced already, by process {debugger.pid} \(python"):
            start_fault(container=web.name, syscall="openat", error="EACCES")
        assert debugger.pid in web.tracers()
    finally:
        debugger.terminate()
        debugger.wait()


@pytest.mark.parametrize("killed", ["agent container", "agent process", pytest.param("tracer", marks=needs_root)])
def test_the_target_survives_every_kill(killed: str, web: Web, client: docker.DockerClient) -> None:
    start_fault(container=web.name, syscall="openat", error="EACCES", delay_enter="20ms")
    assert web.get() == 403
    agent = client.containers.get(AGENT)
    if killed == "agent container":
        agent.remove(force=True)
    elif killed == "agent process":
        agent.kill("SIGKILL")
    else:
        killed_ones = web.tracers() - {0}
        for tracer in killed_ones:
            os.kill(tracer, signal.SIGKILL)
        answers = set()
        wait_for(lambda: answers.add(web.get()) or web.tracers().isdisjoint({0, *killed_ones}), 5)
        assert answers <= {200, 403}
        assert web.get() == 403
        return
    assert wait_for(lambda: web.get() == 200, 5) < 1.0
    assert web.tracers() == {0}


@needs_root
def test_a_stopped_tracer_is_killed_when_its_fault_ends(web: Web) -> None:
    start_fault(container=web.name, syscall="openat", error="EACCES")
    for tracer in web.tracers():
        os.kill(tracer, signal.SIGSTOP)
    begin = time.monotonic()
    stop_fault(container=web.name)
    assert time.monotonic() - begin < 2
    assert web.get() == 200
    assert web.tracers() == {0}


def test_calls_are_counted_as_the_program_experienced_them(web: Web) -> None:
    start_monitoring(container=web.name)
    start_fault(container=web.name, syscall="openat", error="EACCES", delay_enter="20ms")
    began = time.monotonic()
    assert [web.get() for _ in range(10)] == [403] * 10
    stop_fault(container=web.name)
    assert [web.get() for _ in range(5)] == [200] * 5
    took = time.monotonic() - began
    assert find_agent(connect()) is not None
    figures = scrape()
    syscalls = f'chaosorca_syscalls_total{{container="{web.name}",error="%s",syscall="openat"}}'
    assert figures[syscalls % "EACCES"] == 10
    assert figures[syscalls % ""] == 5
    durations = f'chaosorca_syscall_duration_seconds_%s{{container="{web.name}",syscall="openat"}}'
    assert figures[durations % "count"] == 15
    assert 0.2 < figures[durations % "sum"] < took, "the program experienced ten delays of 20 ms"
    assert figures[f'chaosorca_faults_injected_total{{container="{web.name}",effect="delay_enter+error",syscall="openat"}}'] == 10
    stop_monitoring(container=web.name)


def test_a_fault_is_injected_within_a_second_of_its_start(web: Web) -> None:
    start_monitoring(container=web.name)  # the agent runs
    took = []
    load = subprocess.Popen([sys.executable, "-c", _HAMMER, web.url])
    try:
        for _ in range(5):
            begin = time.monotonic()
            start_fault(container=web.name, syscall="openat", error="EACCES")
            wait_for(lambda: web.get() == 403, 5)
            took.append(time.monotonic() - begin)
            stop_fault(container=web.name)
    finally:
        load.kill()
        load.wait()
    stop_monitoring(container=web.name)
    assert median(took) < 1.0, took


_DEBUGGER = """
import ctypes, sys, time
PTRACE_SEIZE = 0x4206
if ctypes.CDLL(None, use_errno=True).ptrace(PTRACE_SEIZE, int(sys.argv[1]), None, None):
    sys.exit(f"ptrace: errno {ctypes.get_errno()}")
time.sleep(60)
"""


_HAMMER = """
import sys, time, urllib.request

end = time.time() + 60
while time.time() < end:
    try:
        urllib.request.urlopen(sys.argv[1]).read()
    except OSError:
        pass
    time.sleep(0.01)
"""


def address(container: Container) -> str:
    """Return the address of a container, which a restart changes."""
    container.reload()
    return f"http://127.0.0.1:{container.attrs['NetworkSettings']['Ports']['80/tcp'][0]['HostPort']}/"


@pytest.mark.parametrize("how", ["restart", "kill and start"])
def test_a_restarted_container_gets_the_fault_again(how: str, web: Web) -> None:
    start_fault(container=web.name, syscall="openat", error="EACCES", path=PAGE)
    if how == "restart":
        web.container.restart(timeout=1)
    else:
        web.container.kill()
        web.container.wait()
        assert fault_active(web.name) is True
        web.container.start()
    web.url = address(web.container)
    took = wait_for(lambda: web.get() == 403, 5)
    print(f"hit {took:.2f} s after it was started")  # noqa: T201
    assert took < 1.5
    stop_fault(container=web.container.short_id)
    assert web.get() == 200
    assert web.tracers() == {0}


def test_the_fault_of_a_paused_container_can_be_stopped(web: Web) -> None:
    start_fault(container=web.name, syscall="openat", error="EACCES")
    web.container.pause()
    begin = time.monotonic()
    stop_fault(container=web.name)
    assert time.monotonic() - begin < 2
    web.container.unpause()
    assert web.get() == 200
    assert web.tracers() == {0}


def test_a_fault_ends_when_its_abort_condition_holds(monitored: Web) -> None:
    condition = "error_ratio(4xx,5xx,none) > 0.5 for 2s"
    load = subprocess.Popen([sys.executable, "-c", _HAMMER, monitored.url])
    try:
        started = start_fault(container=monitored.name, syscall="openat", error="EACCES", abort_when=condition)
        assert monitored.get() == 403
        wait_for(lambda: monitored.get() == 200, 5)
        assert time.time() - datetime.fromisoformat(started["begins"]).timestamp() > 2.0
    finally:
        load.kill()
        load.wait()
    assert fault_active(monitored.name) is False
    (ended,) = agent_status()["faults"]
    assert ended["reason"].startswith(f"{condition} held (error_ratio ")
    assert monitored.tracers() == {0}
