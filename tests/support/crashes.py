"""One round of the crash matrix: a fault is in force on an nginx under load, something happens, and nothing may be left behind.

`EVENTS` is the table of what can happen, and of what has to be true after it. Whoever traces the target is found by the kernel's
word for it (TracerPid), whatever the tracer is called. Everything of the target is looked at from outside; requests go to 127.0.0.1
in its own network namespace, so that they work the same on any engine, and also while its daemon is down.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import random
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import docker

from chaosorca.actions.faults import start_fault, stop_all_faults, stop_fault
from chaosorca.engine.agent import find_agent
from chaosorca.model.contract import AGENT
from chaosorca.probes.faults import fault_active, faults_injected
from tests.support.engine_state import leftovers, remove_leftovers
from tests.support.kernel_state import breakpoints, programs
from tests.support.project import BIN
from tests.support.waiting import wait_for

SYSCALL = "writev"
"""nginx answers by it, and does not need it to start: a restart under the fault is no gamble."""

DELAY = 0.04
EFFECTS = {
    "error": {"error": "EACCES"},  # nginx closes the connection without an answer
    "delay": {"delay_enter": f"{DELAY * 1000:.0f}ms"},
    "signal": {"signal": "SIGURG"},  # which nginx leaves ignored; SIGWINCH would end its workers
}
TRACERS = {"strace", "orca-tracer"}
INJECTORS = ("auto", "uprobe", "ptrace")

ALLOWED = 2.0
"""Seconds after which everything has to be as the table says."""

_LONG = 60.0  # a duration that no round waits for
_LATEST_MOMENT = 1.0
_MOST_BETWEEN = 0.005
_CHAOS_BEGINS_WITHIN, _CHAOS_PAUSES, _CHAOS_ENDS_WITHIN = 30.0, 4.0, 12.0
_REQUESTS_PER_SECOND, _LOAD_LASTS = 30.0, 90.0
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

ENDS = "ends"
RUNS_OUT = "goes on until its duration is over"
GOES_ON = "goes on until it is stopped"


class Engine(Protocol):
    """A Docker Engine, as a round needs it."""

    configuration: dict[str, Any]

    @property
    def client(self) -> docker.DockerClient: ...

    def start(self, live_restore: bool) -> None: ...

    def stop(self) -> None: ...


@dataclass
class FirstEngine:
    """The one that the `docker` command uses."""

    client: docker.DockerClient = field(default_factory=docker.from_env)
    configuration: dict[str, Any] = field(default_factory=dict)

    def start(self, live_restore: bool) -> None:
        raise NotImplementedError("the machine's own daemon is not restarted")

    def stop(self) -> None:
        raise NotImplementedError("the machine's own daemon is not stopped")


@dataclass(frozen=True)
class Event:
    """Something that happens while a fault is in force, and what has to be true after it."""

    name: str
    strike: Callable[[Round], None]
    fault: str
    agent: tuple[str, ...]  # gone: no container; dead: one that does not run; runs
    restarted: bool = False  # the target has new processes
    duration: float = _LONG  # of the fault
    grace: float = 0.0  # how long after its duration the tracer ends by itself
    by_chaos: bool = False  # the fault is started by `chaos run`, and the event may come before it
    live_restore: bool | None = None  # on a second engine, with or without it
    full_load: bool = False  # as many requests as the target answers


@dataclass
class Outcome:
    """What became of a round."""

    event: str
    effect: str
    complaints: list[str]
    injector: str  # by which the fault was to be injected
    seconds: float = 0.0  # until all was as the table says
    clean_up: float = 0.0  # from `stop_fault` and `stop_all_faults` on, until nothing of ours was left

    @property
    def passed(self) -> bool:
        return not self.complaints


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
        return self._engine.client.containers.get(self.name)

    def refresh(self) -> int:
        """Look its first process up again, which a restart changes; 0 if there is none."""
        self.pid = int(self.container.attrs["State"]["Pid"])
        return self.pid

    def remove(self) -> None:
        with contextlib.suppress(docker.errors.NotFound):
            self.container.remove(force=True, v=True)

    def get(self) -> tuple[int, float]:
        """The status code of a request, 0 if there was no answer, and how long it took."""
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
        """Its processes, each with when it began."""
        found = set()
        for pid in _in_pid_namespace_of(self.pid):
            with contextlib.suppress(OSError):
                found.add((pid, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]))
        return found

    def threads(self) -> Iterator[tuple[int, str, int]]:
        """Of each of its threads the id, the state (R, S, T, t, …), and who traces it."""
        for pid in _in_pid_namespace_of(self.pid):
            for status in Path(f"/proc/{pid}/task").glob("*/status"):
                with contextlib.suppress(OSError):
                    fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
                    if fields["State"][0] not in "ZX":
                        yield int(fields["Pid"]), fields["State"][0], int(fields["TracerPid"])

    def tracers(self) -> set[int]:
        """Who traces it; 0 is among them if a thread is not traced."""
        return {tracer for _, _, tracer in self.threads()}


class Round:
    """A fault on a target, and what happens to it."""

    def __init__(
        self, engine: Engine, target: Target, event: Event, effect: str, rng: random.Random, directory: Path, injector: str = "auto"
    ) -> None:
        self.engine = engine
        self.target = target
        self.event = event
        self.effect = effect
        self.rng = rng
        self.complaints: list[str] = []
        self.chaos: subprocess.Popen[bytes] | None = None
        self.struck: float | None = None
        self.ends_by: float | None = None  # when the duration is over, if the fault is known to have begun
        self.old_tracers: set[int] = set()
        self._directory = directory
        self._agents: set[str] = set()
        self._frozen = False
        self._is_clean = False
        self._before = target.processes()
        self._programs_before = programs().keys()
        self._asked, self.injector = injector, cheapest() if injector == "auto" else injector

    def play(self) -> Outcome:
        """Start the fault, let the event happen at a random moment, and see."""
        outcome = Outcome(self.event.name, self.effect, self.complaints, self.injector)
        try:
            with _load(self.target, self.event.full_load):
                self._start()
                self.agent()
                self.event.strike(self)
                end = time.monotonic()
                since = self.struck or end
                if self.event.fault == GOES_ON:
                    self._expect(self.not_in_force)
                elif self.event.fault == ENDS:
                    self._expect(self.not_well)
                else:
                    since = self._run_out(end)
                outcome.seconds = max(0.0, time.monotonic() - since)
                outcome.clean_up = self._stop()
        except Exception as error:
            self.complaints.append(f"{type(error).__name__}: {error}")
        finally:
            self._mend()
        return outcome

    def agent(self) -> Any:
        """The agent's container, None if there is none."""
        try:
            found = self.engine.client.containers.get(AGENT)
        except docker.errors.NotFound:
            return None
        self._agents.add(found.id)
        return found

    def freeze_agent(self) -> None:
        """Stop the agent's main process: nobody can ask it anything now."""
        self._frozen = True
        self.agent().kill("SIGSTOP")

    def strikes_now(self) -> None:
        """Measure from now on, not only from when the event is over: for what has to help while it happens."""
        self.struck = time.monotonic()

    def pause(self, most: float = _LATEST_MOMENT) -> None:
        """Let a random time pass."""
        time.sleep(self.rng.uniform(0, most))

    def see_chaos_out(self, how: signal.Signals) -> None:
        """Wait until `chaos` has ended.

        Chaos Toolkit goes on with the experiment where the signal came during an action, which then has failed. The fault may not.
        """
        assert self.chaos is not None and self.struck is not None
        released = self.struck
        while self.chaos.poll() is None and time.monotonic() < self.struck + _CHAOS_ENDS_WITHIN:
            if any(self.target.tracers()):
                released = time.monotonic()
            time.sleep(0.01)
        if self.chaos.returncode is None:
            self.complaints.append(f"chaos has not ended {_CHAOS_ENDS_WITHIN:.0f} s after {how.name}")
        if released > self.struck + ALLOWED and not self._chaos_has_not_heard():
            self.complaints.append(f"the target was still traced {released - self.struck:.1f} s after {how.name} of chaos")

    def _chaos_has_not_heard(self) -> bool:
        """Whether Chaos Toolkit has lost the signal, as it does where a control runs just then, and has gone on to the end."""
        with contextlib.suppress(OSError, ValueError):
            journal = json.loads((self._directory / "journal.json").read_text())
            return journal["status"] == "completed" and all(run["status"] == "succeeded" for run in journal["run"])
        return False

    def not_in_force(self) -> list[str]:
        """What speaks against it that the fault acts on the whole target, and that the target goes on under it."""
        tracers = self.target.tracers()
        if not tracers or 0 in tracers:
            return ["not every thread of the target is traced"]
        if tracers & self.old_tracers:
            return ["the target is still traced by the tracer that was killed or stopped"]
        status, seconds = self.target.get()
        expected = 0 if self.effect == "error" else 200
        if status != expected or seconds > 0.9 or (self.effect == "delay" and seconds < DELAY):
            return [f"the fault is not in force: a request was answered by {status or 'nothing'} after {seconds:.2f} s"]
        if not self._frozen and _answers(self.engine):
            before = faults_injected(self.target.name, configuration=self.engine.configuration)
            self.target.get()
            time.sleep(0.05)  # the tracer's word comes a moment after the answer
            if faults_injected(self.target.name, configuration=self.engine.configuration) <= before:
                return ["the agent counts no injected calls"]
        return []

    def not_well(self) -> list[str]:
        """What is not as it was before the fault; the agent is as the table says."""
        return self._not_released() or self._not_ended(self.event.agent)

    def not_clean(self) -> list[str]:
        """What is left behind when everything has been stopped."""
        left = (
            self._not_released() or self._not_ended(("gone",)) or [f"left behind: {one}" for one in leftovers(self.engine.client)]
        )
        return left or self._not_taken_away()

    def _start(self) -> None:
        arguments: dict[str, Any] = {
            "container": self.target.name,
            "syscall": SYSCALL,
            "duration": f"{self.event.duration:.0f}s",
            "injector": self._asked,
            **EFFECTS[self.effect],
        }
        if not self.event.by_chaos:
            started = start_fault(**arguments, configuration=self.engine.configuration)
            self._check_injector(started["injector"])
        else:
            self._start_chaos(arguments)
            if self.rng.random() < 0.5:  # the other half strikes at any moment of the start
                self.pause(2.0)
                return
            wait_for(lambda: 0 not in (self.target.tracers() or {0}), _CHAOS_BEGINS_WITHIN)
            agent = find_agent(self.engine.client)
            assert agent is not None
            started = agent.ask("status")["faults"][-1]
            self._check_injector(started["injector"])
        self.ends_by = time.monotonic() + datetime.fromisoformat(started["ends"]).timestamp() - time.time()
        self.pause()

    def _check_injector(self, injector: str) -> None:
        if injector != self.injector:
            self.complaints.append(f"the fault is injected by {injector}, not by {self.injector}")

    def _start_chaos(self, arguments: dict[str, Any]) -> None:
        provider = {"type": "python", "module": "chaosorca.actions.faults", "func": "start_fault", "arguments": arguments}
        experiment = {
            "title": "A crash",
            "description": "A fault that something happens to.",
            "controls": [{"name": "cleanup", "provider": {"type": "python", "module": "chaosorca.controls.cleanup"}}],
            "method": [{"name": "fault", "type": "action", "provider": provider, "pauses": {"after": _CHAOS_PAUSES}}],
        }
        (self._directory / "experiment.json").write_text(json.dumps(experiment))
        with (self._directory / "chaos.log").open("wb") as output:
            self.chaos = subprocess.Popen(
                [BIN / "chaos", "--no-version-check", "run", "experiment.json"],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _run_out(self, struck: float) -> float:
        """The fault goes on, and ends by itself; return when its duration was over."""
        if self.ends_by is None:
            # `chaos` died before the fault was seen. The agent may have been about to begin it.
            ends_by = struck + 1.0 + self.event.duration
        else:
            ends_by = self.ends_by
            if ends_by - time.monotonic() > 1.0:
                self._expect(self.not_in_force, min(ALLOWED, ends_by - time.monotonic() - 0.5))
        ends_by = max(struck, ends_by)
        time.sleep(max(0.0, ends_by - time.monotonic()))
        self._expect(self.not_well, self.event.grace + ALLOWED)
        return ends_by

    def _stop(self) -> float:
        """Stop what goes on, as a user does; return how long it took until nothing was left."""
        begin = time.monotonic()
        self._thaw()
        stop_fault(container=self.target.name, configuration=self.engine.configuration)
        stop_all_faults(configuration=self.engine.configuration)
        self._expect(self.not_clean)
        self._is_clean = True
        return time.monotonic() - begin

    def _expect(self, check: Callable[[], list[str]], within: float = ALLOWED) -> None:
        """Wait until there is no more complaint, or note it."""
        begin = time.monotonic()
        while complaints := check():
            if time.monotonic() > begin + within:
                self.complaints += [f"{within:.1f} s later {complaint}" for complaint in complaints]
                return
            time.sleep(0.01)

    def _not_released(self) -> list[str]:
        threads = list(self.target.threads())
        if not threads:
            return ["the target has no process"]
        held = [f"thread {tid} of the target is traced by process {tracer}" for tid, _, tracer in threads if tracer]
        stopped = [f"thread {tid} of the target is stopped ({state})" for tid, state, _ in threads if state in "Tt"]
        if held or stopped:
            return held + stopped
        if not self.event.restarted and self.target.processes() != self._before:
            return ["processes of the target have ended or are new"]
        for _ in range(5):
            status, seconds = self.target.get()
            if status != 200:
                return [f"the target's answer is {status or 'none'} after {seconds:.2f} s"]
        return []

    def _not_ended(self, agent_states: tuple[str, ...]) -> list[str]:
        if not _answers(self.engine):
            return ["the engine does not answer"]
        agent = self.agent()
        state = "gone" if agent is None else "runs" if agent.status == "running" else "dead"
        left = [
            f"process {pid} ({name}) of the agent is left"
            for pid, name in _of_containers(self._agents)
            if name in TRACERS or state != "runs"
        ]
        if left or state not in agent_states:
            return left or [f"the agent is {state}, not {' or '.join(agent_states)}"]
        if state == "runs" and not self._frozen and fault_active(self.target.name, configuration=self.engine.configuration):
            return ["the agent says that the fault is active"]
        return []

    def _not_taken_away(self) -> list[str]:
        """What the kernel still holds of ours, where no agent is left."""
        left = [f"eBPF program {id_} ({name}) is left" for id_, name in programs().items() if id_ not in self._programs_before]
        return left + breakpoints([pid for pid, _ in self.target.processes()])

    def _thaw(self) -> None:
        if self._frozen:
            self._frozen = False
            agent = self.agent()
            if agent is not None and agent.status == "running":
                agent.kill("SIGCONT")

    def _mend(self) -> None:
        """Undo what the event did, however the round went; after one that failed, by force."""
        if self.chaos is not None:
            self.chaos.kill()
            self.chaos.wait()
        with contextlib.suppress(docker.errors.DockerException):
            self._thaw()
        with contextlib.suppress(docker.errors.DockerException):
            if self.target.container.status == "paused":
                self.target.container.unpause()
        if not self._is_clean or self.complaints:
            with contextlib.suppress(docker.errors.DockerException):
                remove_leftovers(self.engine.client)
            for pid, _ in _of_containers(self._agents):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def kill_chaos(how: signal.Signals) -> Callable[[Round], None]:
    def strike(one: Round) -> None:
        assert one.chaos is not None
        one.strikes_now()
        one.chaos.send_signal(how)
        if how is not signal.SIGKILL:
            one.see_chaos_out(how)

    return strike


def kill_agent(one: Round) -> None:
    one.strikes_now()
    one.agent().kill("SIGKILL")


def freeze_agent(one: Round) -> None:
    one.freeze_agent()


def freeze_and_kill_agent(one: Round) -> None:
    one.freeze_agent()
    one.pause()
    kill_agent(one)


def remove_agent(one: Round) -> None:
    one.strikes_now()
    one.agent().remove(force=True)


def signal_tracer(how: signal.Signals) -> Callable[[Round], None]:
    def strike(one: Round) -> None:
        tracer = one.rng.choice(sorted(one.target.tracers() - {0}))
        one.old_tracers = {tracer}
        os.kill(tracer, how)

    return strike


def kill_tracer_and_agent(tracer_first: bool) -> Callable[[Round], None]:
    def strike(one: Round) -> None:
        agent = one.agent()
        agent.reload()
        all_of_them = [*sorted(one.target.tracers() - {0}), int(agent.attrs["State"]["Pid"])]
        one.strikes_now()
        for pid in all_of_them if tracer_first else reversed(all_of_them):
            with contextlib.suppress(ProcessLookupError):  # a tracer dies with its agent
                os.kill(pid, signal.SIGKILL)
            one.pause(_MOST_BETWEEN)

    return strike


def kill_target(one: Round) -> None:
    container = one.target.container
    container.kill()
    container.wait()
    one.pause()
    container.start()
    one.target.refresh()


def restart_target(one: Round) -> None:
    one.target.container.restart(timeout=1)
    one.target.refresh()


def pause_target(one: Round) -> None:
    container = one.target.container
    container.pause()
    one.pause()
    container.unpause()


def stop_fault_of_paused_target(one: Round) -> None:
    container = one.target.container
    container.pause()
    one.pause()
    stop_fault(container=one.target.name, configuration=one.engine.configuration)
    container.unpause()


def restart_daemon(one: Round) -> None:
    live_restore = one.event.live_restore
    assert live_restore is not None and one.ends_by is not None
    one.engine.stop()
    if live_restore and one.ends_by - time.monotonic() > 1.0:
        one.complaints += one.not_in_force()
    one.pause(one.event.duration if live_restore else _LATEST_MOMENT)
    one.engine.start(live_restore)
    wait_for(one.target.refresh)


EVENTS = (
    # what happens              how                                       the fault  the agent
    Event("chaos-SIGKILL", kill_chaos(signal.SIGKILL), RUNS_OUT, ("runs", "dead", "gone"), duration=3, by_chaos=True),
    Event("chaos-SIGTERM", kill_chaos(signal.SIGTERM), ENDS, ("gone",), by_chaos=True),
    Event("chaos-SIGINT", kill_chaos(signal.SIGINT), ENDS, ("gone",), by_chaos=True),
    Event("agent-SIGKILL", kill_agent, ENDS, ("dead",)),
    Event("agent-SIGSTOP", freeze_agent, RUNS_OUT, ("runs",), duration=3),
    Event("agent-SIGSTOP-SIGKILL", freeze_and_kill_agent, ENDS, ("dead",)),
    Event("agent-rm", remove_agent, ENDS, ("gone",)),
    Event("tracer-SIGKILL", signal_tracer(signal.SIGKILL), GOES_ON, ("runs",)),
    Event("tracer-SIGSTOP", signal_tracer(signal.SIGSTOP), GOES_ON, ("runs",)),
    Event("tracer-agent-SIGKILL", kill_tracer_and_agent(True), ENDS, ("dead",), full_load=True),
    Event("agent-tracer-SIGKILL", kill_tracer_and_agent(False), ENDS, ("dead",), full_load=True),
    Event("target-kill", kill_target, GOES_ON, ("runs",), restarted=True),
    Event("target-restart", restart_target, GOES_ON, ("runs",), restarted=True),
    Event("target-pause", pause_target, GOES_ON, ("runs",)),
    Event("target-pause-stop", stop_fault_of_paused_target, ENDS, ("runs",)),
    Event("daemon-live-restore", restart_daemon, RUNS_OUT, ("runs",), duration=5, live_restore=True),
    Event("daemon-restart", restart_daemon, ENDS, ("dead",), restarted=True, live_restore=False),
)


def cheapest() -> str:
    """The injector that `auto` takes for the faults of a round on this machine."""
    version = tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])
    can = platform.machine() == "x86_64" and version >= (5, 15) and Path("/sys/kernel/btf/vmlinux").exists()
    return "uprobe" if can else "ptrace"


@contextlib.contextmanager
def _load(target: Target, is_full: bool) -> Iterator[None]:
    """Requests to the target, so many a second, or as many as it answers, for as long as a round takes at most."""
    over = threading.Event()

    def run() -> None:
        end = time.monotonic() + _LOAD_LASTS
        while not over.wait(0 if is_full else 1 / _REQUESTS_PER_SECOND) and time.monotonic() < end:
            target.get()

    threads = [threading.Thread(target=run, name="load", daemon=True) for _ in range(4 if is_full else 1)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def _network_of(pid: int) -> Iterator[None]:
    """This thread is in the network namespace of a process."""
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


def _in_pid_namespace_of(pid: int) -> list[int]:
    """All processes that share a process's pid namespace, those of `docker exec` too."""
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


def _of_containers(ids: set[str]) -> list[tuple[int, str]]:
    """Living processes in the control groups of containers, by their full ids, also of containers that are gone: pids and names."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and any(one in (entry / "cgroup").read_text() for one in ids):
                name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
                if rest.split()[0] != "Z":  # a stopped parent cannot bury those who have ended
                    found.append((int(entry.name), name))
    return found


def _answers(engine: Engine) -> bool:
    try:
        return bool(engine.client.ping())
    except Exception:  # whatever a client says of a daemon that is down
        return False


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
