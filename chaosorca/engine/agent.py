"""The agent's container: started once per engine, told what to do through it, removed when it has nothing to do."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import docker
import docker.errors
from docker.models.containers import Container as DockerContainer
from docker.types import Mount
from logzero import logger

from chaosorca.engine.client import engine_errors, socket_path
from chaosorca.engine.command import run_command
from chaosorca.engine.containers import own_container
from chaosorca.engine.images import ensure_image
from chaosorca.engine.network import ensure_network, remove_unused_network
from chaosorca.exceptions import AgentError, EngineError, InvalidArgument
from chaosorca.model.contract import (
    AGENT,
    CAPABILITIES,
    ENGINE_SOCKET,
    HOST_CGROUPS,
    LOG_LEVEL_VARIABLE,
    LOG_LEVELS,
    ROLE_LABEL,
    TRACE_VARIABLE,
)
from chaosorca.model.errors import KINDS
from chaosorca.model.record import FaultRecord

_SOCKET = "/var/run/docker.sock"
_MEMORY = "512m"
_READY_WITHIN = 20.0
_STARTED_WITHIN = 5.0
_VARIABLES = {TRACE_VARIABLE: ("1",), LOG_LEVEL_VARIABLE: LOG_LEVELS}
"""The environment variables that the agent gets from the client's environment, and their values."""


class Agent:
    """The running agent of an engine."""

    def __init__(self, container: DockerContainer) -> None:
        self._container = container

    def ask(self, operation: str, **arguments: Any) -> Any:
        """Have the agent do something, and return its answer; its errors come back as ours."""
        request = json.dumps({"do": operation, "with": arguments})
        with engine_errors(f"asking the agent to {operation}"):
            exit_code, output, complaint = run_command(self._container, ["python3", "-m", "chaosorca.agent.ctl", request])
        try:
            answer = json.loads(output)
        except ValueError:
            said = (complaint or output).decode(errors="replace").strip()[-300:] or f"no output, exit code {exit_code}"
            raise AgentError(f"the agent did not answer ({said}): look at `docker logs {AGENT}`") from None
        if "error" in answer:
            error = answer["error"]
            raise KINDS.get(error["kind"], AgentError)(error["message"])
        return answer["ok"]

    def faults(self) -> list[FaultRecord]:
        """Return the records of all faults that the agent keeps, ended ones included, oldest first."""
        return _records(self.ask("status")["faults"])

    def stop_fault(self, **selection: Any) -> list[FaultRecord]:
        """End the faults that match every item of the selection, and return their records.

        Arguments:
            selection: `container` (an id), `syscalls`, `fault_id`, `run`; none of them selects all faults.
        """
        return _records(self.ask("stop_fault", **selection)["stopped"])

    def is_idle(self) -> bool:
        """Whether it watches nothing and runs no fault."""
        status = self.ask("status")
        return not status["targets"] and not any(fault["active"] for fault in status["faults"])

    def retire(self) -> bool:
        """Have it refuse further work if it has nothing to do; return whether it does."""
        return bool(self.ask("retire")["retired"])


def _records(given: list[dict[str, Any]]) -> list[FaultRecord]:
    try:
        return [FaultRecord.from_json(one) for one in given]
    except (KeyError, TypeError, ValueError) as error:
        raise AgentError(
            f"the agent describes its faults in a way that this version does not read ({type(error).__name__}: {error}): "
            f"use the version that started it, or remove it with `docker rm -f {AGENT}`"
        ) from error


def find_agent(client: docker.DockerClient) -> Agent | None:
    """The agent if it runs, whatever its version."""
    container = _container(client)
    return Agent(container) if container is not None and container.status == "running" else None


def ensure_agent(client: docker.DockerClient, configuration: Mapping[str, Any] | None) -> Agent:
    """Return the running agent of this version, starting it first where there is none.

    Raises:
        AgentError: an agent of another version runs a fault, or a new one does not get ready.
        EngineError: its image could not be built, or its container not started.
    """
    image = ensure_image(client, "agent", configuration)
    container = _started_container(client)
    if container is not None:
        if container.status == "running" and _is_of(container, image):
            return Agent(container)
        if container.status == "running" and not Agent(container).is_idle():
            raise AgentError(
                f"an agent of another version ({container.attrs['Config']['Image']}) is at work: "
                "end its faults and monitoring with that version, or remove it with `docker rm -f chaosorca-agent`"
            )
        _remove(container)
    try:
        return _start(client, image)
    except BaseException:  # Ctrl-C too
        left = _container(client)
        if left is not None:
            _remove(left)
        remove_unused_network(client)
        raise


@contextlib.contextmanager
def visited_agent(client: docker.DockerClient, configuration: Mapping[str, Any] | None) -> Iterator[Agent]:
    """The agent, started for as long as this lasts where there is none; one that is there is used, and left as it is.

    Raises:
        AgentError: there is one that is of another version, or does not run.
        EngineError: its image could not be built, or its container not started.
    """
    image = ensure_image(client, "agent", configuration)
    container = _started_container(client)
    if container is not None and container.status in ("running", "paused"):
        if container.status == "paused":
            raise AgentError(f"container {AGENT!r} is paused: unpause it with `docker unpause {AGENT}`")
        if not _is_of(container, image):
            raise AgentError(
                f"an agent of another version ({container.attrs['Config']['Image']}) is there: "
                f"end its faults and monitoring with that version, or remove it with `docker rm -f {AGENT}`"
            )
        yield Agent(container)
        return
    agent = ensure_agent(client, configuration)
    try:
        yield agent
    finally:
        retire_agent(client)


def retire_agent(client: docker.DockerClient) -> bool:
    """Remove the agent if it has nothing to do, and the network with it; return whether it is gone."""
    container = _container(client)
    if container is not None:
        if container.status == "running" and not Agent(container).retire():
            return False
        _remove(container)
    remove_unused_network(client)
    return True


def _start(client: docker.DockerClient, image: str) -> Agent:
    logger.info("starting the agent, container %s", AGENT)
    with engine_errors(f"starting container {AGENT!r}"):
        container = _run(client, image)
    agent = Agent(container)
    _wait_until_ready(agent, container)
    return agent


def _run(client: docker.DockerClient, image: str) -> DockerContainer:
    """Start the container, with the engine's socket if the engine's host has it where one can know."""
    environment = agent_environment(os.environ)
    for socket in _sockets(client):
        container = None
        try:
            container = client.containers.create(
                image,
                name=AGENT,
                network=ensure_network(client),
                pid_mode="host",
                cgroupns="host",
                cap_drop=["ALL"],
                cap_add=list(CAPABILITIES),
                security_opt=_security_options(client),
                volumes={"/sys/fs/cgroup": {"bind": HOST_CGROUPS, "mode": "ro"}},
                # Unlike a volume, it makes no folder where there is nothing, and fails.
                mounts=[Mount(ENGINE_SOCKET, socket, type="bind", read_only=True)] if socket else [],
                environment=environment,
                mem_limit=_MEMORY,
                restart_policy={"Name": "no"},
                labels={ROLE_LABEL: "agent"},
                **({"userns_mode": "host"} if _has(client, "userns") else {}),
            )
            container.start()
            return container
        except docker.errors.APIError as error:
            if error.status_code == 409:
                break  # another start was faster
            if socket is None:
                raise
            logger.debug("the agent does not start with the engine's socket %s: %s", socket, error)
            if container is not None:
                container.remove(force=True, v=True)
    return client.containers.get(AGENT)


def agent_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of the agent's container: those of `_VARIABLES` that the client has.

    Raises:
        InvalidArgument: one has another value.
    """
    found = {name: environment[name] for name in _VARIABLES if environment.get(name)}
    for name, value in found.items():
        if value not in _VARIABLES[name]:
            raise InvalidArgument(
                f"environment variable {name} is {value!r}: set it to {' or '.join(_VARIABLES[name])}, or unset it"
            )
    return found


def _sockets(client: docker.DockerClient) -> list[str | None]:
    """Where the engine's host may have the engine's socket; None is to go without."""
    return list(dict.fromkeys([socket_path(client) or _SOCKET, _SOCKET, None]))


def _started_container(client: docker.DockerClient) -> DockerContainer | None:
    """The agent's container; one that somebody else is just starting is given the time to."""
    end = time.monotonic() + _STARTED_WITHIN
    while (container := _container(client)) is not None and container.status == "created" and time.monotonic() < end:
        time.sleep(0.1)
    return container


def _is_of(container: DockerContainer, image: str) -> bool:
    with engine_errors(f"looking for the image of container {AGENT!r}"):
        try:
            return image in container.image.tags
        except docker.errors.ImageNotFound:
            return False


def _container(client: docker.DockerClient) -> DockerContainer | None:
    return own_container(client, AGENT, "agent")


def _remove(container: DockerContainer) -> None:
    """Stop it, so that it lets go of what it traces, and remove it; one that has gone meanwhile is success."""
    with engine_errors(f"removing container {AGENT!r}"):
        try:
            container.stop(timeout=5)
            container.remove(force=True, v=True)
        except docker.errors.NotFound:
            pass


def _wait_until_ready(agent: Agent, container: DockerContainer) -> None:
    end = time.monotonic() + _READY_WITHIN
    while True:
        try:
            agent.ask("status")
            return
        except (AgentError, EngineError) as error:
            with engine_errors(f"waiting for container {AGENT!r}"):
                container.reload()
                if container.status not in ("created", "running") or time.monotonic() > end:
                    said = container.logs(tail=5).decode(errors="replace").strip()
                    raise AgentError(f"the agent did not get ready ({error}); it said: {said or 'nothing'}") from error
        time.sleep(0.1)


def _security_options(client: docker.DockerClient) -> list[str]:
    options = ["seccomp=unconfined"]
    if _has(client, "apparmor"):
        options.append("apparmor=unconfined")
    if _has(client, "selinux"):
        options.append("label=disable")
    return options


def _has(client: docker.DockerClient, feature: str) -> bool:
    return any(f"name={feature}" in option for option in client.info().get("SecurityOptions") or [])
