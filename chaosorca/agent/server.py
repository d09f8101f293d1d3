"""The agent's control socket: each connection carries one request and one answer, each a line of JSON.

A request is `{"do": NAME, "with": {...}}`. An answer is `{"ok": ...}` or `{"error": {"kind": ..., "message": ...}}`.
"""

from __future__ import annotations

import json
import logging
import socketserver
from pathlib import Path
from typing import Any

from chaosorca.agent.agent import Agent
from chaosorca.model.errors import KINDS, OrcaError

OPERATIONS = ("start_monitoring", "stop_monitoring", "start_fault", "stop_fault", "status", "examine", "retire", "dump_maps")
_log = logging.getLogger("chaosorca.agent")


def answer(agent: Agent, line: bytes) -> dict[str, Any]:
    """Carry out a request and return the answer. An exception becomes an error answer."""
    try:
        request = json.loads(line)
        operation, arguments = request["do"], request.get("with", {})
        if operation not in OPERATIONS:
            return _error("AgentError", f"the agent cannot do {operation!r}: it can do {', '.join(OPERATIONS)}")
        return {"ok": getattr(agent, operation)(**arguments)}
    except OrcaError as error:
        kind = next((name for name, known in KINDS.items() if type(error) is known), "AgentError")
        return _error(kind, str(error))
    except Exception as error:
        _log.exception("request %r", line)
        return _error("AgentError", f"the agent failed with {type(error).__name__}: {error}")


def make_server(agent: Agent, path: str) -> socketserver.ThreadingUnixStreamServer:
    """Make a server that listens at a path. A socket that an earlier agent has left at the path is replaced."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline()
            if line:
                self.wfile.write(json.dumps(answer(agent, line)).encode() + b"\n")

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    Path(path).unlink(missing_ok=True)
    return Server(path, Handler)


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message}}
