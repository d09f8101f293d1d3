"""What an engine and its kernel can do, and what to do about what they cannot."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import docker
import docker.errors

from chaosorca.engine.agent import find_agent, visited_agent
from chaosorca.engine.client import connect, engine_errors, socket_path
from chaosorca.engine.images import base_image, build_context, has_image, image_created, image_tag
from chaosorca.engine.info import engine_findings
from chaosorca.exceptions import AgentError, EngineError
from chaosorca.model.finding import Finding, merged, no, note, ok
from chaosorca.model.times import seconds

NEEDED = ("Docker", "agent", "control groups", "tracepoints", "socket filters", "ptrace")
"""Without one of these there is no fault, or no monitoring."""

_MAIN = "main job"
_DAY = 86400
_OLD_IMAGE = 90 * _DAY
"""The age, in seconds, from which an image probably lacks security updates of its packages."""


def examine(configuration: Mapping[str, Any] | None) -> list[Finding]:
    """Find out what can be done, by doing it; nothing stays, and an agent that runs already is left as it is.

    Returns:
        one finding for each check; the last one says whether faults and monitoring work here.
    """
    try:
        client = connect(configuration)
    except EngineError as error:
        return _with_verdict([no("Docker", str(error), "start it, or name another one with --docker-host")])
    try:
        with engine_errors("asking the engine about itself"):
            about = engine_findings(client.info(), client.version(), socket_path(client) or str(client.api.base_url))
        return _with_verdict(merged(about, [_base(client, configuration)], _by_agent(client, configuration)))
    except EngineError as error:
        return _with_verdict([no("Docker", str(error), "look at the engine's log")])


def works(findings: Iterable[Finding]) -> bool:
    """Whether faults and monitoring work, as findings say."""
    return any(finding.name == _MAIN and finding.mark == "ok" for finding in findings)


def _by_agent(client: docker.DockerClient, configuration: Mapping[str, Any] | None) -> list[Finding]:
    """What an agent finds."""
    ran = find_agent(client) is not None
    try:
        with visited_agent(client, configuration) as agent:
            found = [Finding(**finding) for finding in agent.ask("examine")]
    except (AgentError, EngineError) as error:
        return [no("agent", str(error), "it is what injects and measures: see to that first")]
    state = "runs already, and is left as it is" if ran else "could be started, and is gone again"
    return [ok("agent", f"its container {state}"), *_image(client, time.time()), *found]


def _image(client: docker.DockerClient, now: float) -> list[Finding]:
    name = image_tag("agent", build_context("agent"))
    created = image_created(client, name)
    return [image_age(name, created, now)] if created else []


def image_age(name: str, created: str, now: float) -> Finding:
    """Return how old an image is, and what to do about an old one.

    Arguments:
        name: the image.
        created: when it was created, in ISO 8601.
        now: the time in seconds since 1970.
    """
    age = now - seconds(created)
    days = int(age // _DAY)
    told = "less than a day ago" if days < 1 else "1 day ago" if days == 1 else f"{days} days ago"
    if age > _OLD_IMAGE:
        return note("agent image", f"{name} was built {told}", f"rebuild it for security updates: docker rmi {name}")
    return ok("agent image", f"{name} was built {told}")


def _base(client: docker.DockerClient, configuration: Mapping[str, Any] | None) -> Finding:
    name = base_image(configuration)
    if has_image(client, name):
        return ok("base image", f"{name} is there")
    return note("base image", f"{name} is not there, and is pulled when an image is built", "or name another by --base-image")


def _with_verdict(findings: list[Finding]) -> list[Finding]:
    marks = {finding.name: finding.mark for finding in findings}
    missing = [name for name in NEEDED if marks.get(name, "no") == "no"]
    if missing:
        told = [name for name in missing if name in marks]
        return [*findings, no(_MAIN, "faults and monitoring do not both work here", f"see {', '.join(told)}")]
    return [*findings, ok(_MAIN, "faults can be injected, and containers monitored")]
