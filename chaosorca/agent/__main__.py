"""The main process of the agent's container."""

from __future__ import annotations

import logging
import os
import platform
import signal
import threading
from dataclasses import dataclass
from types import FrameType

from chaosorca.agent.agent import Agent, Retirement
from chaosorca.agent.doctor.doctor import Doctor
from chaosorca.agent.export import endpoint
from chaosorca.agent.export.collect import Collector
from chaosorca.agent.faults.choice import Choice
from chaosorca.agent.faults.faults import Faults
from chaosorca.agent.faults.ledger import Ledger
from chaosorca.agent.injectors.arming import Arming
from chaosorca.agent.monitors.http import HttpMonitor
from chaosorca.agent.monitors.monitoring import Monitoring
from chaosorca.agent.monitors.resources import ResourceMonitor
from chaosorca.agent.monitors.syscalls import SyscallMonitor
from chaosorca.agent.server import make_server
from chaosorca.agent.targets.engine_events import EngineEvents
from chaosorca.agent.targets.recreation import Recreation
from chaosorca.agent.targets.target import own_cgroup
from chaosorca.model.contract import METRICS_PORT, SOCKET
from chaosorca.model.syscall_table import machine


@dataclass
class Parts:
    """An agent, and the parts that `main` runs or serves."""

    agent: Agent
    monitoring: Monitoring
    faults: Faults
    choice: Choice
    collector: Collector
    events: EngineEvents


def make_parts(arch: str, arming: Arming) -> Parts:
    """Make an agent and its parts.

    Arguments:
        arch: the machine, `x86_64` or `aarch64`.
        arming: the uprobes that arm threads.
    """
    own, ledger, retirement = own_cgroup(), Ledger(), Retirement()
    syscalls, http = SyscallMonitor(arch), HttpMonitor()
    resources = ResourceMonitor(syscalls.ended_io)
    monitoring = Monitoring(syscalls, http, resources, retirement.admit)
    choice = Choice(arch, arming, monitoring)
    faults = Faults(ledger, monitoring, choice, retirement.admit)
    recreation = Recreation([faults, monitoring])
    events = EngineEvents(recreation.ids_by_name, recreation.recreated)
    collector = Collector(monitoring, faults, ledger, arming, own)
    doctor = Doctor(arch, syscalls, http, choice, resources.io_source, events.problem)
    agent = Agent(monitoring, faults, choice, collector, events, doctor, retirement, own)
    return Parts(agent, monitoring, faults, choice, collector, events)


def main() -> None:
    """Serve until a signal asks the agent to end. The variable `CHAOSORCA_LOG_LEVEL` sets the log level."""
    level = os.environ.get("CHAOSORCA_LOG_LEVEL", "info").upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    parts = make_parts(machine(platform.machine()), Arming())
    endpoint.serve(METRICS_PORT, endpoint.timed(parts.collector.snapshot))
    server = make_server(parts.agent, SOCKET)
    for name, run in (
        ("preparing", parts.choice.prepare),
        ("faults", parts.faults.run),
        ("monitors", parts.monitoring.run),
        ("events", parts.events.run),
    ):
        threading.Thread(target=run, name=name, daemon=True).start()

    def end(_signal: int, _frame: FrameType | None) -> None:
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    logging.info("ready")
    server.serve_forever(poll_interval=0.1)
    # Only the faults are ended here. When the process ends, the kernel detaches everything else.
    parts.faults.stop("the agent was ended")


if __name__ == "__main__":
    main()
