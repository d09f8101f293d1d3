"""What is particular to uprobes: new programs, the arming signal, shared files, and waits that are not interrupted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from chaoslib.exceptions import ActivityFailed
from docker.models.containers import Container

from chaosorca.actions.faults import start_fault, stop_fault
from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.engine.agent import ensure_agent
from chaosorca.engine.client import connect
from chaosorca.engine.command import run_command
from chaosorca.model.contract import AGENT
from chaosorca.model.fault import parse_fault
from chaosorca.probes.faults import faults_injected
from tests.support.agent_state import last_fault, scrape
from tests.support.held_program import HOLD, resume
from tests.support.kernel_state import breakpoints, links, programs
from tests.support.project import needs_root
from tests.support.waiting import becomes, wait_for
from tests.support.web import Web

pytestmark = pytest.mark.usefixtures("end_all_faults")


def said(container: Container) -> list[str]:
    return container.logs().decode().splitlines()


def test_a_later_program_is_hit_from_its_first_call_on(run_container: Callable[..., Container]) -> None:
    """ldconfig is linked statically, so it shares no code that has probes already."""
    loop = "$| = 1; while (1) { system('/sbin/ldconfig -p >/dev/null 2>&1'); print $?, qq(\\n); select(undef, undef, undef, 0.1) }"
    target = run_container(["perl", "-e", loop])
    wait_for(lambda: len(said(target)) > 2)
    assert set(said(target)) == {"0"}
    start_fault(container=target.name, syscall="openat", error="EACCES", path="/etc/ld.so.cache", injector="uprobe")
    wait_for(lambda: said(target)[-1] == "256")  # once its code was read
    before = len(said(target))
    wait_for(lambda: len(said(target)) > before + 10)
    assert set(said(target)[before:]) == {"256"}, "each ldconfig failed to open its cache"
    stop_fault(container=target.name)
    wait_for(lambda: said(target)[-1] == "0")  # the last one may still have been running
    before = len(said(target))
    wait_for(lambda: len(said(target)) > before + 3)
    assert set(said(target)[before:]) == {"0"}


@pytest.mark.parametrize("handled", ["", "$SIG{WINCH} = sub { $other++ };"])
def test_the_programs_own_use_of_the_signal_is_its_own(handled: str, run_container: Callable[..., Container]) -> None:
    """If the program handles SIGURG, SIGWINCH arms the threads, unless that is handled too."""
    script = f"""
        $| = 1; $SIG{{URG}} = sub {{ $own++ }}; {handled} {HOLD}
        for (1 .. 300) {{ $sent += kill 'URG', $$; $denied++ unless open F, '<', '/etc/hostname' }}
        printf "%d %d %d %d\\n", $sent, $own, $denied, $other; sleep 60
    """
    target = run_container(["perl", "-e", script])
    start_fault(container=target.name, syscall="openat", error="EACCES", path="/etc/hostname", injector="uprobe")
    resume(target)
    wait_for(lambda: len(said(target)) == 1, 20)
    assert said(target) == ["300 300 300 0"]
    becomes(lambda: faults_injected(target.name), 300)


def test_a_thread_that_blocks_the_signals_is_reported_and_stopped_at_calls(run_container: Callable[..., Container]) -> None:
    """It blocks SIGURG (23), and SIGWINCH where that is the arming signal."""
    script = (
        f"use POSIX; $| = 1; {HOLD}"
        + """
        my $all = POSIX::SigSet->new; $all->fillset; my $old = POSIX::SigSet->new;
        sub opened { my $n = 0; for (1 .. 20) { $n++ if open F, '<', '/etc/hostname' } return $n }
        my @opened = opened();
        sigprocmask(SIG_BLOCK, POSIX::SigSet->new(23), $old); push @opened, opened();
        sigprocmask(SIG_BLOCK, $all); push @opened, opened(); select undef, undef, undef, 1; push @opened, opened();
        sigprocmask(SIG_SETMASK, $old); push @opened, opened();
        print "@opened\\n"; sleep 60
    """
    )
    target = run_container(["perl", "-e", script])
    start_fault(container=target.name, syscall="openat", error="EACCES", injector="uprobe")
    resume(target)
    wait_for(lambda: len(said(target)) == 1)
    *hit, passed, later, last = (int(word) for word in said(target)[0].split())
    assert (hit, later, last) == ([0, 0], 0, 0)
    assert 0 < passed <= 20, "until the agent notices"
    becomes(lambda: faults_injected(target.name), 100 - passed)
    (warning,) = last_fault()["warnings"]
    assert warning.startswith(
        f"{passed} calls of openat were not hit, because their threads had just blocked the signals that stop them"
    )


def test_no_wait_is_interrupted_when_a_fault_begins_and_ends(run_container: Callable[..., Container]) -> None:
    """epoll_wait is never restarted: it returns EINTR to a thread that is stopped in it."""
    script = """
        $| = 1; require 'syscall.ph' if 0; my $epoll = syscall(291, 0); my $events = "\\0" x 64;
        my $r = syscall(232, $epoll, $events, 1, 6000); print $r, " ", $r < 0 ? $! : "", "\\n"; sleep 60
    """
    target = run_container(["perl", "-e", script])
    time.sleep(1)
    for _ in range(3):
        start_fault(container=target.name, syscall="openat", error="EACCES", injector="uprobe")
        stop_fault(container=target.name)
    wait_for(lambda: len(said(target)) == 1, 10)
    assert said(target) == ["0 "], "it waited for its six seconds"


def test_a_container_of_the_same_image_is_not_touched(web: Web, run_container: Callable[..., Container]) -> None:
    loop = '$| = 1; while (1) { print open(F, "<", "/etc/hostname") ? "open" : $!, "\\n"; select(undef, undef, undef, 0.02) }'
    one, other = run_container(["perl", "-e", loop]), run_container(["perl", "-e", loop])
    start_fault(container=one.name, syscall="openat", error="EACCES", injector="uprobe")
    wait_for(lambda: "Permission denied" in said(one))
    time.sleep(1)
    assert set(said(other)) == {"open"}
    assert web.tracers() == {0}


def test_all_calls_come_by_a_probe(web: Web) -> None:
    start_monitoring(container=web.name, http=False, resources=False)
    start_fault(container=web.name, syscall="openat,writev", delay_enter="1ms", when="5+2", injector="uprobe")
    for _ in range(60):
        assert web.get() == 200
    becomes(lambda: last_fault()["coverage"].get("openat"), {"made": 60, "probed": 60})
    wait_for(lambda: (writev := last_fault()["coverage"]["writev"])["made"] == writev["probed"] >= 60)
    figures = scrape()
    for seen_by in ("kernel", "probes"):
        labels = f'container="{web.name}",seen_by="{seen_by}",syscall="openat"'
        assert figures[f"chaosorca_fault_calls_total{{{labels}}}"] == 60
    for _ in range(40):
        assert web.get() == 200
    (stopped,) = stop_fault(container=web.name)["stopped"]  # at once: the end of the fault reads the calls for the last time
    assert stopped["coverage"]["openat"] == {"made": 100, "probed": 100}
    assert stopped["coverage"]["writev"]["made"] == stopped["coverage"]["writev"]["probed"] >= 100
    stop_monitoring(container=web.name)


@needs_root
def test_no_probe_stays_in_the_code(web: Web, run_container: Callable[..., Container]) -> None:
    """The check reads the memory of the target, and of another container with the same files."""
    other = Web(run_container(["sleep", "60"]), "")
    before_programs = programs().keys()
    start_monitoring(container=web.name, http=False, resources=False)  # this keeps the agent
    pids, others = web.pids(), other.pids()
    for _ in range(2):
        start_fault(container=web.name, syscall="openat", error="EACCES", injector="uprobe")
        start_fault(container=web.name, syscall="writev", delay_enter="1ms", injector="uprobe")
        assert breakpoints(pids) and breakpoints(others) and links("at_site", but=before_programs)
        assert web.get() == 403
        stop_fault(container=web.name, syscall="openat")
        stop_fault(container=web.name)
        assert web.get() == 200
    took = wait_for(lambda: not links("at_site", but=before_programs) and not breakpoints([*pids, *others]), 5)
    print(f"the last probe was gone {took:.2f} s after the end")  # noqa: T201
    assert "at_site" in programs().values(), "the agent keeps the program"
    assert web.get() == 200
    stop_monitoring(container=web.name)
    wait_for(lambda: programs().keys() <= before_programs, 5)


def test_what_uprobes_cannot_do_is_done_by_ptrace_with_the_reason(web: Web) -> None:
    started = start_fault(container=web.name, syscall="openat,clone", delay_enter="1ms")
    assert started["injector"] == "ptrace"
    assert any("not by uprobes: it cannot do a fault on clone" in warning for warning in started["warnings"])
    stop_fault(container=web.name)
    with pytest.raises(ActivityFailed, match="injector 'uprobe' does not support a fault on clone"):
        start_fault(container=web.name, syscall="openat,clone", delay_enter="1ms", injector="uprobe")


WITHOUT_UPROBE_MULTI = """
import json, sys, time
from chaosorca.agent.__main__ import make_parts
from chaosorca.agent.injectors.arming import Arming

agent = make_parts("x86_64", Arming(one_by_one=True)).agent
container, fault = json.loads(sys.argv[1])
started = agent.start_fault(container, fault, "one", "run", "uprobe")
time.sleep(2)
(stopped,) = agent.stop_fault()["stopped"]
time.sleep(1.5)  # until the probes are gone
print(json.dumps([started["warnings"], started["injector"], stopped["injected"]]))
"""


def test_an_older_kernel_gets_its_probes_one_by_one(run_container: Callable[..., Container]) -> None:
    """Linux before 6.6 needs that. A second agent's process in the agent's container does it here."""
    loop = '$| = 1; while (1) { print open(F, "<", "/etc/hostname") ? "open" : $!, "\\n"; select(undef, undef, undef, 0.02) }'
    target = run_container(["perl", "-e", loop])
    ensure_agent(connect(), None)
    target.reload()
    container = {"name": target.name, "id": target.id, "pid": target.attrs["State"]["Pid"]}
    request = json.dumps([container, parse_fault("x86_64", "openat", error="EACCES").to_json()])
    ended = run_command(connect().containers.get(AGENT), ["python3", "-c", WITHOUT_UPROBE_MULTI, request])
    assert ended.exit_code == 0, ended.errors.decode()
    warnings, injector, injected = json.loads(ended.output.splitlines()[-1])
    denied = said(target).count("Permission denied")
    assert (warnings, injector, injected) == ([], "uprobe", {"openat": denied})
    assert denied > 50
    assert said(target)[-1] == "open"
