"""Check what an engine and its kernel support, and say what to do about each limitation."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import docker
import docker.errors

from chaosorca.engine.agent import find_agent, temporary_agent
from chaosorca.engine.client import connect, engine_errors, socket_path
from chaosorca.engine.images import base_image, build_context, has_image, image_created, image_tag
from chaosorca.engine.info import engine_findings
from chaosorca.exceptions import AgentError, EngineError
from chaosorca.model.finding import Finding, merged, no, note, ok
from chaosorca.model.times import seconds

NEEDED = ("Docker", "agent", "control groups", "tracepoints", "socket filters", "ptrace")
"""The checks that faults and monitoring need."""

_MAIN = "main job"
_DAY = 86400
_OLD_IMAGE = 90 * _DAY
"""An image older than this many seconds probably lacks security updates of its packages."""


def examine(configuration: Mapping[str, Any] | None) -> list[Finding]:
    """Check what the engine and the kernel support.

    If an agent is running, the checks use this agent and leave it unchanged. Otherwise an agent is started for the checks and
    removed afterwards.

    Returns:
        one finding for each check. The last finding says whether faults and monitoring work on this host.
    """
    try:
        client = connect(configuration)
    except EngineError as error:
        return _with_verdict([no("Docker", str(error), "start it, or give another engine with --docker-host")])
    try:
        with engine_errors("asking the engine about itself"):
            about = engine_findings(client.info(), client.version(), socket_path(client) or str(client.api.base_url))
        return _with_verdict(merged(about, [_base(client, configuration)], _by_agent(client, configuration)))
    except EngineError as error:
        return _with_verdict([no("Docker", str(error), "look at the engine's log")])


def works(findings: Iterable[Finding]) -> bool:
    """Return whether the findings say that faults and monitoring work."""
    return any(finding.name == _MAIN and finding.mark == "ok" for finding in findings)


def _by_agent(client: docker.DockerClient, configuration: Mapping[str, Any] | None) -> list[Finding]:
    """Return the findings about the agent and its image, and the findings of the agent's own checks."""
    was_running = find_agent(client) is not None
    try:
        with temporary_agent(client, configuration) as agent:
            found = [Finding(**finding) for finding in agent.ask("examine")]
    except (AgentError, EngineError) as error:
        return [no("agent", str(error), "solve this first, because the agent injects and measures")]
    state = "was already running and is left unchanged" if was_running else "could be started and was removed again"
    return [ok("agent", f"its container {state}"), *_image(client, time.time()), *found]


def _image(client: docker.DockerClient, now: float) -> list[Finding]:
    name = image_tag("agent", build_context("agent"))
    created = image_created(client, name)
    return [image_age(name, created, now)] if created else []


def image_age(name: str, created: str, now: float) -> Finding:
    """Return the finding about the age of an image.

    Arguments:
        name: the image's name.
        created: when the image was created, in ISO 8601.
        now: the current time in seconds since 1970.
    """
    age = now - seconds(created)
    days = int(age // _DAY)
    when = "less than a day ago" if days < 1 else "1 day ago" if days == 1 else f"{days} days ago"
    if age > _OLD_IMAGE:
        return note("agent image", f"{name} was built {when}", f"rebuild it for security updates: docker rmi {name}")
    return ok("agent image", f"{name} was built {when}")


def _base(client: docker.DockerClient, configuration: Mapping[str, Any] | None) -> Finding:
    name = base_image(configuration)
    if has_image(client, name):
        return ok("base image", f"{name} is present")
    return note("base image", f"{name} is missing", "it is pulled for the next build, unless --base-image names another")


def _with_verdict(findings: list[Finding]) -> list[Finding]:
    marks = {finding.name: finding.mark for finding in findings}
    missing = [name for name in NEEDED if marks.get(name, "no") == "no"]
    if missing:
        failed = [name for name in missing if name in marks]
        return [*findings, no(_MAIN, "faults and monitoring do not both work here", f"see {', '.join(failed)}")]
    return [*findings, ok(_MAIN, "faults can be injected and containers can be monitored")]
