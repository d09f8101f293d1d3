"""One round of the crash matrix: a fault is in force on an nginx under load, an event happens, and nothing may be left behind."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import docker

from chaosorca.actions.faults import start_fault, stop_all_faults, stop_fault
from chaosorca.engine.agent import find_agent
from chaosorca.model.contract import AGENT
from chaosorca.probes.faults import fault_active, faults_injected
from tests.support.crashes.model import ENDS, STAYS, Engine, Event, Outcome
from tests.support.crashes.target import Target
from tests.support.engine_state import leftovers, remove_leftovers
from tests.support.kernel_state import breakpoints, programs
from tests.support.project import BIN
from tests.support.waiting import wait_for

SYSCALL = "writev"
"""nginx sends answers by this system call, but starts without it. So nginx can restart under the fault."""

DELAY = 0.04
EFFECTS = {
    "error": {"error": "EACCES"},  # nginx closes the connection without an answer
    "delay": {"delay_enter": f"{DELAY * 1000:.0f}ms"},
    "signal": {"signal": "SIGURG"},  # nginx ignores SIGURG; SIGWINCH would end its workers
}
TRACERS = {"strace", "orca-tracer"}
INJECTORS = ("auto", "uprobe", "ptrace")

ALLOWED = 2.0
"""How many seconds after an event everything must be as the table of events says."""
LATEST_MOMENT = 1.0

_CHAOS_BEGINS_WITHIN, _CHAOS_PAUSES, _CHAOS_ENDS_WITHIN = 30.0, 4.0, 12.0
_REQUESTS_PER_SECOND, _LOAD_LASTS = 30.0, 90.0


class Round:
    """A fault on a target, and an event."""

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
        self.measured_from: float | None = None
        self.ends_by: float | None = None  # when the fault's duration is over; None if its beginning was not seen
        self.old_tracers: set[int] = set()
        self._directory = directory
        self._agents: set[str] = set()
        self._frozen = False
        self._is_clean = False
        self._before = target.processes()
        self._programs_before = programs().keys()
        self._asked, self.injector = injector, cheapest() if injector == "auto" else injector

    def play(self) -> Outcome:
        """Start the fault, trigger the event at a random moment, and check the result."""
        outcome = Outcome(self.event.name, self.effect, self.complaints, self.injector)
        try:
            with _load(self.target, self.event.full_load):
                self._start()
                self.agent()
                self.event.trigger(self)
                end = time.monotonic()
                since = self.measured_from or end
                if self.event.fault == STAYS:
                    self._expect(self.not_in_force)
                elif self.event.fault == ENDS:
                    self._expect(self.not_recovered)
                else:
                    since = self._expire(end)
                outcome.seconds = max(0.0, time.monotonic() - since)
                outcome.clean_up = self._stop()
        except Exception as error:
            self.complaints.append(f"{type(error).__name__}: {error}")
        finally:
            self._clean_up()
        return outcome

    def agent(self) -> Any:
        """Return the agent's container; None if there is none."""
        try:
            found = self.engine.client.containers.get(AGENT)
        except docker.errors.NotFound:
            return None
        self._agents.add(found.id)
        return found

    def freeze_agent(self) -> None:
        """Stop the agent's main process, so that it answers no request."""
        self._frozen = True
        self.agent().kill("SIGSTOP")

    def measure_from_now(self) -> None:
        """Measure the recovery from now on. This is for events whose effect must be undone before the event itself ends."""
        self.measured_from = time.monotonic()

    def pause(self, most: float = LATEST_MOMENT) -> None:
        """Wait for a random time."""
        time.sleep(self.rng.uniform(0, most))

    def wait_for_chaos(self, how: signal.Signals) -> None:
        """Wait until `chaos` has ended after a signal.

        If the signal comes during an action, Chaos Toolkit counts that action as failed and continues. The fault must still end.
        """
        assert self.chaos is not None and self.measured_from is not None
        released = self.measured_from
        while self.chaos.poll() is None and time.monotonic() < self.measured_from + _CHAOS_ENDS_WITHIN:
            if any(self.target.tracers()):
                released = time.monotonic()
            time.sleep(0.01)
        if self.chaos.returncode is None:
            self.complaints.append(f"chaos has not ended {_CHAOS_ENDS_WITHIN:.0f} s after {how.name}")
        if released > self.measured_from + ALLOWED and not self._chaos_lost_the_signal():
            self.complaints.append(f"the target was still traced {released - self.measured_from:.1f} s after {how.name} of chaos")

    def _chaos_lost_the_signal(self) -> bool:
        """Return whether Chaos Toolkit ignored the signal and completed. This happens if the signal arrives during a control."""
        with contextlib.suppress(OSError, ValueError):
            journal = json.loads((self._directory / "journal.json").read_text())
            return journal["status"] == "completed" and all(run["status"] == "succeeded" for run in journal["run"])
        return False

    def not_in_force(self) -> list[str]:
        """Return why the fault does not act on the whole target, or why the target's answers are not the expected ones."""
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
            time.sleep(0.05)  # the tracer reports a moment after the answer
            if faults_injected(self.target.name, configuration=self.engine.configuration) <= before:
                return ["the agent counts no injected calls"]
        return []

    def not_recovered(self) -> list[str]:
        """Return what differs from the time before the fault, or from the agent's expected state."""
        return self._not_released() or self._not_ended(self.event.agent)

    def not_clean(self) -> list[str]:
        """Return what is left after everything was stopped."""
        left = (
            self._not_released() or self._not_ended(("gone",)) or [f"left behind: {one}" for one in leftovers(self.engine.client)]
        )
        return left or self._kernel_leftovers()

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
            if self.rng.random() < 0.5:  # in half of the rounds, the event happens at a random moment while `chaos` starts
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
            "description": "A fault during which an event happens.",
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

    def _expire(self, triggered: float) -> float:
        """Check that the fault stays in force and then expires. Return when its duration was over."""
        if self.ends_by is None:
            # `chaos` died before the fault was seen. The agent may begin it a moment later.
            ends_by = triggered + 1.0 + self.event.duration
        else:
            ends_by = self.ends_by
            if ends_by - time.monotonic() > 1.0:
                self._expect(self.not_in_force, min(ALLOWED, ends_by - time.monotonic() - 0.5))
        ends_by = max(triggered, ends_by)
        time.sleep(max(0.0, ends_by - time.monotonic()))
        self._expect(self.not_recovered, self.event.grace + ALLOWED)
        return ends_by

    def _stop(self) -> float:
        """Stop everything as a user does. Return the number of seconds until nothing was left."""
        begin = time.monotonic()
        self._thaw()
        stop_fault(container=self.target.name, configuration=self.engine.configuration)
        stop_all_faults(configuration=self.engine.configuration)
        self._expect(self.not_clean)
        self._is_clean = True
        return time.monotonic() - begin

    def _expect(self, check: Callable[[], list[str]], within: float = ALLOWED) -> None:
        """Wait until a check has no complaints. If the allowed time is over, record them."""
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
            for pid, name in _processes_of_containers(self._agents)
            if name in TRACERS or state != "runs"
        ]
        if left or state not in agent_states:
            return left or [f"the agent is {state}, not {' or '.join(agent_states)}"]
        if state == "runs" and not self._frozen and fault_active(self.target.name, configuration=self.engine.configuration):
            return ["the agent reports that the fault is active"]
        return []

    def _kernel_leftovers(self) -> list[str]:
        """Return the eBPF programs and breakpoints that the kernel still holds without an agent."""
        left = [f"eBPF program {id_} ({name}) is left" for id_, name in programs().items() if id_ not in self._programs_before]
        return left + breakpoints([pid for pid, _ in self.target.processes()])

    def _thaw(self) -> None:
        if self._frozen:
            self._frozen = False
            agent = self.agent()
            if agent is not None and agent.status == "running":
                agent.kill("SIGCONT")

    def _clean_up(self) -> None:
        """Undo the effects of the event. After a failed round, also remove everything by force."""
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
            for pid, _ in _processes_of_containers(self._agents):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def cheapest() -> str:
    """Return the injector that `auto` chooses for the faults of a round on this machine."""
    version = tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])
    has_uprobes = platform.machine() == "x86_64" and version >= (5, 15) and Path("/sys/kernel/btf/vmlinux").exists()
    return "uprobe" if has_uprobes else "ptrace"


@contextlib.contextmanager
def _load(target: Target, is_full: bool) -> Iterator[None]:
    """Make requests to the target during a round: some per second, or as many as it can answer."""
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


def _processes_of_containers(ids: set[str]) -> list[tuple[int, str]]:
    """Return the pids and names of running processes in the control groups of containers. The containers may be gone."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and any(one in (entry / "cgroup").read_text() for one in ids):
                name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
                if rest.split()[0] != "Z":  # a stopped parent cannot wait for its ended children
                    found.append((int(entry.name), name))
    return found


def _answers(engine: Engine) -> bool:
    try:
        return bool(engine.client.ping())
    except Exception:  # a client raises many kinds of errors while the daemon is down
        return False
