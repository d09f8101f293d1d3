"""Containers that are made anew under a name that is followed, as the Docker Engine tells of them.

Its API (`GET /events`, `GET /containers/NAME/json`) over its Unix socket, with the standard library only.
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

from chaosorca.model.container import running_container
from chaosorca.model.contract import ENGINE_SOCKET
from chaosorca.model.errors import ContainerError, EngineError, OrcaError

_EVENTS = {"type": ["container"], "event": ["start", "rename"]}
_ANSWERS_WITHIN = 5.0
_PAUSE = 0.5
_FIRST_TRY_WITHIN = 2.0
_log = logging.getLogger("chaosorca.agent")


def name_in_event(line: bytes) -> str | None:
    """The name of the container that a line of the engine's events tells of, None if it tells of none."""
    try:
        name = json.loads(line)["Actor"]["Attributes"]["name"]
    except (ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


class EngineEvents:
    """Looks at each container that is started or renamed, and calls back when it has the name of another that is followed."""

    def __init__(
        self,
        followed: Callable[[], Mapping[str, set[str]]],
        on_new: Callable[[dict[str, Any]], None],
        path: str = ENGINE_SOCKET,
        own_id: str | None = None,
        pause: float = _PAUSE,
    ) -> None:
        """
        Arguments:
            followed: the ids of the containers that are followed now, by name.
            on_new: is told a container, as `Container.to_json` gives it, that has one of these names and is none of these ids.
            path: the engine's socket.
            own_id: a container that the engine must know, so that no other engine's is followed; the one that this runs in.
            pause: seconds before a connection that has ended is made again.
        """
        self._followed = followed
        self._on_new = on_new
        self._path = path
        self._own_id = own_id or socket.gethostname()
        self._pause = pause
        self._tried = threading.Event()
        self._trouble = ""

    def run(self) -> None:
        """Follow events until the process ends."""
        while True:
            try:
                self._follow()
                trouble = "the Docker Engine has ended its events"
            except FileNotFoundError:
                trouble = "the engine's socket is not mounted into the agent"
            except (OSError, http.client.HTTPException, OrcaError) as error:
                trouble = f"the engine's socket is of no use: {error}"
            except Exception as error:
                _log.exception("following the engine's events")
                trouble = f"the agent failed with {type(error).__name__}: {error}"
            self._now(trouble)
            time.sleep(self._pause)

    def trouble(self) -> str:
        """Why no events are followed, empty while they are."""
        self._tried.wait(_FIRST_TRY_WITHIN)
        return self._trouble

    def status(self) -> dict[str, str]:
        """What is followed: names, or ids only, and why."""
        trouble = self.trouble()
        return {"follows": "ids only" if trouble else "names", "follows_reason": trouble}

    def warnings(self) -> list[str]:
        """What a user should know of it."""
        trouble = self.trouble()
        return [f"it will not be followed when it is removed and made anew under its name: {trouble}"] if trouble else []

    def _follow(self) -> None:
        """Follow events for as long as one connection lasts."""
        # Those of the last moment are asked for too, so that none falls between the connection and the first look.
        query = urlencode({"filters": json.dumps(_EVENTS), "since": int(time.time()) - 1})
        if self._get(f"/containers/{self._own_id}/json") is None:
            raise EngineError("it belongs to another Docker Engine")
        with contextlib.closing(_Connection(self._path)) as connection:
            connection.request("GET", f"/events?{query}")
            stream_socket = connection.sock
            lines = connection.getresponse()
            if lines.status != http.HTTPStatus.OK:
                raise EngineError(f"the Docker Engine answered {lines.status} when asked for its events")
            stream_socket.settimeout(None)  # they come when they come
            for name in list(self._followed()):
                self._look(name)
            self._now("")
            for line in lines:
                started = name_in_event(line)
                if started is not None and started in self._followed():
                    self._look(started)

    def _look(self, name: str) -> None:
        """Look who has a name now, which may be another than an event was about."""
        inspected = self._get(f"/containers/{quote(name)}/json")
        # A name that is nobody's may still be the beginning of somebody's id.
        if inspected is None or inspected["Name"] != f"/{name}" or self._followed().get(name) in (None, {inspected["Id"]}):
            return
        try:
            self._on_new(running_container(inspected).to_json())
        except ContainerError as error:
            _log.info("not followed: %s", error)
        except (OrcaError, OSError) as error:
            _log.warning("container %s is not followed: %s", name, error)

    def _get(self, path: str) -> Any:
        """What the engine answers, None if it knows no such thing."""
        with contextlib.closing(_Connection(self._path)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        if answer.status == http.HTTPStatus.NOT_FOUND:
            return None
        if answer.status != http.HTTPStatus.OK:
            raise EngineError(f"the Docker Engine answered {answer.status} to {path}")
        return json.loads(body)

    def _now(self, trouble: str) -> None:
        if trouble != self._trouble or not self._tried.is_set():
            _log.info("follows %s", f"ids only: {trouble}" if trouble else "names")
        self._trouble = trouble
        self._tried.set()


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ANSWERS_WITHIN)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ANSWERS_WITHIN)
        self.sock.connect(self._path)
