"""The agent container's main process."""

from __future__ import annotations

import logging
import platform
import signal
import threading
from types import FrameType

from chaosorca.agent.agent import Agent
from chaosorca.agent.export import endpoint
from chaosorca.agent.server import make_server
from chaosorca.model.contract import METRICS_PORT, SOCKET
from chaosorca.model.syscalls import machine


def main() -> None:
    """Serve until asked to end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    agent = Agent(machine(platform.machine()))
    endpoint.serve(METRICS_PORT, endpoint.timed(agent.snapshot))
    server = make_server(agent, SOCKET)
    threading.Thread(target=agent.prepare_faults, name="preparing", daemon=True).start()
    threading.Thread(target=agent.keep_faults_up, name="faults", daemon=True).start()
    threading.Thread(target=agent.keep_monitors_up, name="monitors", daemon=True).start()
    threading.Thread(target=agent.names.run, name="names", daemon=True).start()

    def end(_signal: int, _frame: FrameType | None) -> None:
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    logging.info("ready")
    server.serve_forever(poll_interval=0.1)
    agent.shut_down()


if __name__ == "__main__":
    main()
