"""The Docker Engine's events: which containers were started or renamed.

The agent reads them over a Unix socket through the engine's API (`GET /events`, `GET /containers/NAME/json`). The client uses
only the standard library.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from chaosorca.agent import timeouts
from chaosorca.model.container import running_container
from chaosorca.model.contract import ENGINE_SOCKET
from chaosorca.model.errors import ContainerError, EngineError, OrcaError

_EVENTS = {"type": ["container"], "event": ["start", "rename"]}
_log = logging.getLogger("chaosorca.agent")


def name_in_event(line: bytes) -> str | None:
    """Return the container's name in a line of the engine's events; None if the line does not contain a name."""
    try:
        name = json.loads(line)["Actor"]["Attributes"]["name"]
    except (ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


class EngineEvents:
    """Reads the events, and calls back when another container takes the name of a target."""

    def __init__(
        self,
        followed: Callable[[], Mapping[str, set[str]]],
        on_new: Callable[[dict[str, Any]], None],
        path: str = ENGINE_SOCKET,
        own_id: str | None = None,
        pause: float = timeouts.ENGINE_RECONNECTED_AFTER,
    ) -> None:
        """
        Arguments:
            followed: returns the ids of all targets by name.
            on_new: receives a container with a target's name and another id, as `Container.to_json` returns it.
            path: the engine's socket.
            own_id: the id of a container that the engine must have; by default the agent's id. Other engines are refused.
            pause: seconds between two connections.
        """
        self._followed = followed
        self._on_new = on_new
        self._path = path
        self._own_id = own_id or socket.gethostname()
        self._pause = pause
        self._tried = threading.Event()
        self._problem = ""

    def run(self) -> None:
        """Follow events until the agent ends."""
        while True:
            try:
                self._follow()
                problem = "the Docker Engine has ended its events"
            except FileNotFoundError:
                problem = "the engine's socket is not mounted into the agent"
            except (OSError, http.client.HTTPException, OrcaError) as error:
                problem = f"the engine's socket cannot be used: {error}"
            except Exception as error:
                _log.exception("following the engine's events")
                problem = f"the agent failed with {type(error).__name__}: {error}"
            self._note(problem)
            time.sleep(self._pause)

    def problem(self) -> str:
        """Return why no events are followed; empty while events are followed."""
        self._tried.wait(timeouts.ENGINE_FIRST_TRY_WITHIN)
        return self._problem

    def status(self) -> dict[str, str]:
        """Return whether re-creations by name are followed, and the reason if they are not."""
        problem = self.problem()
        return {"follows": "ids only" if problem else "names", "follows_reason": problem}

    def warnings(self) -> list[str]:
        """Return the warnings for an action that starts a fault or monitoring."""
        problem = self.problem()
        return [f"it will not be followed when it is re-created under its name: {problem}"] if problem else []

    def _follow(self) -> None:
        """Follow events while one connection lasts."""
        # The events of the last second are included, so that no event is lost before the stream opens.
        query = urlencode({"filters": json.dumps(_EVENTS), "since": int(time.time()) - 1})
        if self._get(f"/containers/{self._own_id}/json") is None:
            raise EngineError("it belongs to another Docker Engine")
        with contextlib.closing(_Connection(self._path)) as connection:
            connection.request("GET", f"/events?{query}")
            stream_socket = connection.sock
            lines = connection.getresponse()
            if lines.status != http.HTTPStatus.OK:
                raise EngineError(f"the Docker Engine answered {lines.status} when asked for its events")
            stream_socket.settimeout(None)  # the next event may take any time
            for name in list(self._followed()):
                self._check(name)
            self._note("")
            for line in lines:
                started = name_in_event(line)
                if started is not None and started in self._followed():
                    self._check(started)

    def _check(self, name: str) -> None:
        """Check which container has a name now. This container can differ from the container in the event."""
        inspected = self._get(f"/containers/{quote(name)}/json")
        # The engine also returns a container whose id begins with `name`.
        if inspected is None or inspected["Name"] != f"/{name}" or self._followed().get(name) in (None, {inspected["Id"]}):
            return
        try:
            self._on_new(running_container(inspected).to_json())
        except ContainerError as error:
            _log.info("not followed: %s", error)
        except (OrcaError, OSError) as error:
            _log.warning("container %s is not followed: %s", name, error)

    def _get(self, path: str) -> Any:
        """Return the engine's answer; None for a 404."""
        with contextlib.closing(_Connection(self._path)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        if answer.status == http.HTTPStatus.NOT_FOUND:
            return None
        if answer.status != http.HTTPStatus.OK:
            raise EngineError(f"the Docker Engine answered {answer.status} to {path}")
        return json.loads(body)

    def _note(self, problem: str) -> None:
        if problem != self._problem or not self._tried.is_set():
            _log.info("follows %s", f"ids only: {problem}" if problem else "names")
        self._problem = problem
        self._tried.set()


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=timeouts.ENGINE_ANSWERS_WITHIN)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeouts.ENGINE_ANSWERS_WITHIN)
        self.sock.connect(self._path)
