"""System calls are counted exactly, whatever happens in the meantime; gaps in the count are reported."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest
from chaoslib.exceptions import ActivityFailed
from docker.models.containers import Container

from chaosorca.actions import monitoring
from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.engine.command import run_command
from chaosorca.engine.containers import find_container, select_containers
from chaosorca.engine.images import ensure_image
from chaosorca.model.capabilities import CAPABILITIES
from chaosorca.model.contract import AGENT
from chaosorca.model.errno import errno_name
from tests.support.agent_state import scrape
from tests.support.observer import Observers, Round, fault_on
from tests.support.waiting import wait_for
from tests.support.web import Web

pytestmark = pytest.mark.usefixtures("one_agent_for_all")

THREADS, REPEATS = 8, 62_500
STEPS = ("getppid", "unlinkat")


def calls_of(figures: dict[str, float], container: Any, syscall: str) -> dict[str, float]:
    """Return the counts of a system call by errno."""
    pattern = re.compile(rf'chaosorca_syscalls_total{{container="{container.name}",error="(\w*)",syscall="{syscall}"}}')
    return {found[1]: value for name, value in figures.items() if (found := pattern.fullmatch(name))}


def test_a_million_calls_of_eight_threads_are_a_million(observers: Observers) -> None:
    observer = observers.get("dynamic")
    observer.prepare(Round(STEPS, REPEATS, alone=False, threads=THREADS, recorded=0))
    start_monitoring(container=observer.name, http=False, resources=False)
    try:
        workers = observer.run()
        figures = scrape()
    finally:
        stop_monitoring(container=observer.name)
    tally: Counter[int] = sum((worker.tally for worker in workers), Counter())
    assert sum(tally.values()) == 1_000_000
    assert calls_of(figures, observer.container, "getppid") == {"": 500_000}
    assert calls_of(figures, observer.container, "unlinkat") == {"ENOENT": 500_000} == {errno_name(2): tally[-2]}
    for call in STEPS:
        duration = f'chaosorca_syscall_duration_seconds_count{{container="{observer.name}",syscall="{call}"}}'
        assert figures[duration] == 500_000
    assert [value for name, value in figures.items() if name.startswith("chaosorca_agent_dropped_total")] == [0.0] * 3


def seen_of_calls() -> set[str]:
    """Return the tracepoints of system calls that the agent's programs are attached to."""
    agent = docker.from_env().containers.get(AGENT)
    texts = []
    for path in Path(f"/proc/{agent.attrs['State']['Pid']}/fdinfo").iterdir():
        with contextlib.suppress(OSError):  # the agent opens and closes files all the time
            texts.append(path.read_text())
    return {found[1] for text in texts if (found := re.search(r"tp_name:\s*(sys_\w+)", text))}


def test_no_call_pays_while_none_are_counted(observers: Observers, run_container: Callable[..., Container]) -> None:
    sleeper = run_container(["perl", "-e", "$SIG{USR1} = sub {}; select(undef, undef, undef, 60); getppid; sleep 60"])
    start_monitoring(container=observers.get("dynamic").name, http=False, syscalls=False)
    assert seen_of_calls() == set()
    for _ in range(2):
        start_monitoring(container=sleeper.name, http=False, resources=False)
        assert seen_of_calls() == {"sys_enter", "sys_exit"}
        stop_monitoring(container=sleeper.name)
        assert seen_of_calls() == set()
    start_monitoring(container=sleeper.name, http=False, resources=False)
    sleeper.kill("SIGUSR1")
    wait_for(lambda: calls_of(scrape(), sleeper, "getppid") == {"": 1})
    counted = {name for name in scrape() if "_syscalls_total" in name and f'"{sleeper.name}"' in name}
    assert not [name for name in counted if "select" in name], "a call that began before monitoring is not counted"
    for name in (sleeper.name, observers.get("dynamic").name):
        stop_monitoring(container=name)


def test_calls_that_a_tracer_replaces_are_counted_by_it_alone(observers: Observers) -> None:
    """Without a seccomp profile the kernel program sees them too, as number -1."""
    observer = observers.get("dynamic", confined=False)
    observer.prepare(Round(("getppid",), 500, alone=False, threads=2, recorded=0))
    start_monitoring(container=observer.name, http=False, resources=False)
    try:
        with fault_on(observer, "ptrace", syscall="getppid", error="EPERM"):
            observer.run()
        figures = scrape()  # a tracer reports the calls of the last milliseconds at the end of its fault
    finally:
        stop_monitoring(container=observer.name)
    assert calls_of(figures, observer.container, "getppid") == {"EPERM": 1000}
    assert [name for name in figures if 'syscall="unknown' in name] == []


PROGRAM = """
$SIG{USR1} = sub {}; $SIG{USR2} = sub {}; sleep 60;
for (1..3000) { getppid } for (1..700) { chmod 0644, "/no/such/file" } for (1..50) { rmdir "/etc" }
sleep 60;
"""


def test_the_count_is_that_of_strace(client: docker.DockerClient, run_container: Callable[..., Container]) -> None:
    container = run_container(["perl", "-e", PROGRAM])
    container.reload()
    start_monitoring(container=container.name, http=False, resources=False)
    strace = run_container(
        ["strace", "-f", "-c", "-U", "name,calls,errors", "-p", str(container.attrs["State"]["Pid"])],
        image=ensure_image(client, "agent", None),
        entrypoint="env",
        cap_add=["SYS_PTRACE"],
        security_opt=["seccomp=unconfined"],
        pid_mode="host",
    )
    wait_for(lambda: 0 not in Web(container, "").tracers())
    container.kill("SIGUSR1")
    wait_for(lambda: calls_of(scrape(), container, "rmdir") == {"ENOTEMPTY": 50})
    figures = scrape()
    container.kill("SIGUSR2")
    strace.wait()
    stop_monitoring(container=container.name)
    lines = [line.split() for line in strace.logs().decode().splitlines()]
    theirs = {words[0]: [int(word) for word in words[1:]] for words in lines if len(words) > 1 and words[1].isdigit()}
    assert theirs["getppid"] == [3000]
    assert theirs["rmdir"] == [50, 50]
    (chmod,) = {"chmod", "fchmodat"} & set(theirs)
    assert theirs[chmod] == [700, 700]
    assert calls_of(figures, container, "getppid") == {"": 3000}
    assert calls_of(figures, container, chmod) == {"ENOENT": 700}


def test_many_scrapes_at_once_are_all_answered_and_lose_nothing(observers: Observers) -> None:
    observer = observers.get("dynamic")
    observer.prepare(Round(("getppid",), 50_000, alone=False, threads=4, recorded=0))
    start_monitoring(container=observer.name)
    try:
        observer.begin()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: scrape(), range(16)))
        observer.result()
        figures = scrape()
    finally:
        stop_monitoring(container=observer.name)
    assert all(f'chaosorca_monitored{{container="{observer.name}",monitor="syscalls"}}' in answer for answer in answers)
    assert calls_of(figures, observer.container, "getppid") == {"": 200_000}


def test_series_end_with_a_container_and_continue_with_it(run_container: Callable[..., Container]) -> None:
    container = run_container(["sleep", "60"])
    start_monitoring(container=container.name)
    assert container.exec_run(["perl", "-e", "getppid for 1..1000"]).exit_code == 0
    before = calls_of(scrape(), container, "getppid")[""]
    container.kill()
    container.wait()
    wait_for(lambda: not [name for name in scrape() if f'"{container.name}"' in name])
    wait_for(lambda: seen_of_calls() == set())
    container.start()
    wait_for(lambda: f'chaosorca_monitored{{container="{container.name}",monitor="syscalls"}}' in scrape())
    wait_for(lambda: seen_of_calls() == {"sys_enter", "sys_exit"})
    assert container.exec_run(["perl", "-e", "getppid for 1..1000"]).exit_code == 0
    assert calls_of(scrape(), container, "getppid")[""] - before >= 1000 == before
    assert stop_monitoring(container=container.name) == {"stopped": [container.name]}


def test_of_a_shared_pid_namespace_each_counts_its_own(run_container: Callable[..., Container]) -> None:
    first = run_container(["sleep", "60"])
    second = run_container(["sleep", "60"], pid_mode=f"container:{first.id}")
    for one in (first, second):
        start_monitoring(container=one.name, http=False, resources=False)
    try:
        for caller, number, expected in ((first, 1000, [{"": 1000}, {}]), (second, 500, [{"": 1000}, {"": 500}])):
            assert caller.exec_run(["perl", "-e", f"getppid for 1..{number}"]).exit_code == 0
            figures = scrape()
            assert [calls_of(figures, one, "getppid") for one in (first, second)] == expected
    finally:
        for one in (first, second):
            stop_monitoring(container=one.name)


TIMED = "import time; from chaosorca.agent.ctl import main; began = time.monotonic(); main(); print(time.monotonic() - began)"


def test_further_containers_are_monitored_at_once(
    observers: Observers, run_container: Callable[..., Container], client: docker.DockerClient
) -> None:
    first = observers.get("dynamic").name
    further = {run_container(["sleep", "60"]).name: monitors for monitors in (["syscalls"], ["http", "resources", "syscalls"])}
    start_monitoring(container=first)
    try:
        for name, monitors in further.items():
            asked = {"container": find_container(client, name).to_json(), "monitors": monitors}
            request = json.dumps({"do": "start_monitoring", "with": asked})
            output = run_command(client.containers.get(AGENT), ["python3", "-c", TIMED, request]).output.decode()
            answer, seconds = output.splitlines()
            assert json.loads(answer)["ok"]["monitors"] == monitors
            assert float(seconds) < 0.5
    finally:
        for name in (*further, first):
            stop_monitoring(container=name)


def test_containers_that_end_during_attaching_are_reported_in_one_sentence(
    run_container: Callable[..., Container], web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_monitoring(container=web.name)
    texts = []
    looked_up = run_container(["sleep", "60"])

    def select_and_kill(*arguments: Any) -> Any:
        found = select_containers(*arguments)
        looked_up.kill()
        looked_up.wait()
        return found

    with monkeypatch.context() as patched, pytest.raises(ActivityFailed) as died:
        patched.setattr(monitoring, "select_containers", select_and_kill)
        start_monitoring(container=looked_up.name)
    texts.append(str(died.value))
    assert stop_monitoring(container=looked_up.name) == {"stopped": []}
    for number in range(8):
        container = run_container(["sleep", "60"])
        with concurrent.futures.ThreadPoolExecutor() as pool:
            attaching = pool.submit(start_monitoring, container=container.name)
            time.sleep(0.02 * number)
            container.kill()
            try:
                attaching.result()
            except ActivityFailed as error:
                texts.append(str(error))
        stop_monitoring(container=container.name)
    assert "has ended" in texts[0]
    assert all(re.search("has ended|is not running", sentence) and "\n" not in sentence for sentence in texts), texts
    assert f'chaosorca_monitored{{container="{web.name}",monitor="syscalls"}}' in scrape()
    assert web.get() == 200
    stop_monitoring(container=web.name)


SCRIPT = """
import ctypes, json, mmap, os, struct, subprocess, sys, threading
from pathlib import Path
from chaosorca.agent.monitors import syscalls
from chaosorca.agent.targets.target import Target, own_cgroup

program, capacity = sys.argv[1], int(sys.argv[2])
syscalls._PROGRAMS = (program,)
monitor = syscalls.SyscallMonitor("x86_64", {"calls": capacity, "errors": capacity})
monitor.attach(Target("own", "", own_cgroup()))

def work():
    for _ in range(2000):
        os.getppid()
        os.access("/nothing/here", os.R_OK)

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if os.fork() == 0:
    threading.Thread(target=os.execv, args=("/bin/true", ["true"])).start()
    threading.Event().wait()
os.wait()

# A 32-bit program: getpid, which is writev's number, 1000 times, and exit_group.
code = bytes.fromhex("bee8030000 b814000000 cd80 4e 75f6 b8fc000000 31db cd80")
at, header, size = 0x08048000, 84, 84 + len(code)
elf = struct.pack("<16s2H5I6H", b"\x7fELF\x01\x01\x01", 2, 3, 1, at + header, 52, 0, 0, 52, 32, 1, 0, 0, 0)
elf += struct.pack("<8I", 1, 0, at, at, size, size, 5, 4096) + code
Path("/tmp/of-32-bit").write_bytes(elf)
os.chmod("/tmp/of-32-bit", 0o755)
try:
    subprocess.run(["/tmp/of-32-bit"], check=True)
    ran = True
except OSError:  # a kernel without
    ran = False
# The same by a 64-bit one.
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000 cd80 c3"))
getpid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
found = [getpid() for _ in range(7)] if ran else []
assert set(found) <= {os.getpid()}
counts, durations = monitor.figures()
program = monitor.program()
print(json.dumps({
    "of_32_bit": ran,
    "counts": {call + ":" + error: count for (_, call, error), count in counts.items()},
    "timed": {call: sum(one.slots) for (_, call), one in durations.items()},
    "dropped": program.dropped(),
    "entries": program.entries_in_use(),
}))
monitor.detach("own")
assert monitor.figures() == ({}, {}) and program.entries_in_use()["calls"] == 0, program.entries_in_use()
"""


@pytest.mark.parametrize(("program", "capacity"), [("syscalls", 1000), ("syscalls_plain", 1000), ("syscalls", 4)])
def test_each_program_counts_the_same_and_reports_a_full_map(
    program: str, capacity: int, client: docker.DockerClient, run_container: Callable[..., Container]
) -> None:
    container = run_container(
        ["-c", SCRIPT, program, str(capacity)],
        image=ensure_image(client, "agent", None),
        entrypoint="python3",
        cap_drop=["ALL"],
        cap_add=list(CAPABILITIES),
        security_opt=["seccomp=unconfined"],
        pid_mode="host",
        cgroupns="host",
        volumes={"/sys/fs/cgroup": {"bind": "/host/cgroup", "mode": "ro"}},
    )
    assert container.wait()["StatusCode"] == 0, container.logs().decode()
    found = json.loads(container.logs())
    if capacity < 1000:
        assert found["dropped"] > 0
        assert found["entries"]["calls"] == capacity
        return
    assert found["dropped"] == 0
    in_map = {"syscalls": (), "syscalls_plain": ("in_flight",)}[program]
    assert [table for table in found["entries"] if table == "in_flight"] == list(in_map)
    assert all(0 < found["entries"][table] < 100 for table in in_map), "only the calls that threads are in now"
    assert found["counts"]["getppid:"] == found["timed"]["getppid"] == 16_000
    (missing,) = (call for call in found["counts"] if re.fullmatch(r"f?access(at2?)?:ENOENT", call))
    assert found["counts"][missing] >= 16_000
    programs = 1 + found["of_32_bit"]
    assert found["counts"]["execve:"] == found["timed"]["execve"] == programs, (
        "one by a thread that is not the first of its process"
    )
    assert found["counts"]["exit_group:"] == 1
    assert "exit_group" not in found["timed"]
    if found["of_32_bit"]:
        by_64_bit = {"syscalls": 7, "syscalls_plain": 0}[program]
        assert found["counts"]["compat:20:"] == found["timed"]["compat:20"] == 1000 + by_64_bit
        assert found["counts"]["compat:252:"] == 1
        assert found["counts"].get("writev:", 0) == 7 - by_64_bit
