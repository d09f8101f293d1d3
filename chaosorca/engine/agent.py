"""The agent's container. An engine has at most one agent. Clients control the agent by `docker exec`, and remove an idle agent."""

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
from chaosorca.model.capabilities import CAPABILITIES
from chaosorca.model.contract import AGENT, ENGINE_SOCKET, HOST_CGROUPS, LOG_LEVEL_VARIABLE, LOG_LEVELS, ROLE_LABEL, TRACE_VARIABLE
from chaosorca.model.errors import KINDS
from chaosorca.model.record import FaultRecord

_SOCKET = "/var/run/docker.sock"
_MEMORY = "512m"
_READY_WITHIN = 20.0
_STARTED_WITHIN = 5.0
_VARIABLES = {TRACE_VARIABLE: ("1",), LOG_LEVEL_VARIABLE: LOG_LEVELS}
"""Environment variables that are passed on to the agent, with their valid values."""


class Agent:
    """The running agent of an engine."""

    def __init__(self, container: DockerContainer) -> None:
        self._container = container

    def ask(self, operation: str, **arguments: Any) -> Any:
        """Run an operation of the agent and return the agent's answer.

        Raises:
            OrcaError: the agent reports an error or does not answer.
        """
        request = json.dumps({"do": operation, "with": arguments})
        with engine_errors(f"asking the agent to {operation}"):
            exit_code, output, errors = run_command(self._container, ["python3", "-m", "chaosorca.agent.ctl", request])
        try:
            answer = json.loads(output)
        except ValueError:
            said = (errors or output).decode(errors="replace").strip()[-300:] or f"no output, exit code {exit_code}"
            raise AgentError(f"the agent gave no valid answer ({said}): look at `docker logs {AGENT}`") from None
        if "error" in answer:
            error = answer["error"]
            raise KINDS.get(error["kind"], AgentError)(error["message"])
        return answer["ok"]

    def faults(self) -> list[FaultRecord]:
        """Return all fault records that the agent keeps, oldest first. The records of ended faults are included."""
        return _records(self.ask("status")["faults"])

    def stop_fault(self, **selection: Any) -> list[FaultRecord]:
        """End the faults that match every item of the selection, and return their records.

        Arguments:
            selection: any of `container` (an id), `syscalls`, `fault_id` and `run`. An empty selection matches all faults.
        """
        return _records(self.ask("stop_fault", **selection)["stopped"])

    def is_idle(self) -> bool:
        """Return whether the agent monitors no container and runs no fault."""
        status = self.ask("status")
        return not status["targets"] and not any(fault["active"] for fault in status["faults"])

    def retire(self) -> bool:
        """If the agent is idle, make it refuse further work and return True. Otherwise return False."""
        return bool(self.ask("retire")["retired"])


def _records(given: list[dict[str, Any]]) -> list[FaultRecord]:
    try:
        return [FaultRecord.from_json(one) for one in given]
    except (KeyError, TypeError, ValueError) as error:
        raise AgentError(
            f"this version cannot read the agent's fault records ({type(error).__name__}: {error}): "
            f"use the version that started the agent, or remove the agent with `docker rm -f {AGENT}`"
        ) from error


def find_agent(client: docker.DockerClient) -> Agent | None:
    """Return the running agent, which may be of any version; None if no agent runs."""
    container = _container(client)
    return Agent(container) if container is not None and container.status == "running" else None


def ensure_agent(client: docker.DockerClient, configuration: Mapping[str, Any] | None) -> Agent:
    """Return the running agent of this version. Start an agent first if none runs.

    Raises:
        AgentError: an agent of another version is not idle, or a new agent does not become ready.
        EngineError: the image could not be built, or the container could not be started.
    """
    image = ensure_image(client, "agent", configuration)
    container = _started_container(client)
    if container is not None:
        if container.status == "running" and _is_of(container, image):
            return Agent(container)
        if container.status == "running" and not Agent(container).is_idle():
            raise AgentError(
                f"an agent of another version ({container.attrs['Config']['Image']}) is busy: "
                f"end its faults and monitoring with that version, or remove it with `docker rm -f {AGENT}`"
            )
        _remove(container)
    try:
        return _start(client, image)
    except BaseException:  # including Ctrl-C
        left = _container(client)
        if left is not None:
            _remove(left)
        remove_unused_network(client)
        raise


@contextlib.contextmanager
def temporary_agent(client: docker.DockerClient, configuration: Mapping[str, Any] | None) -> Iterator[Agent]:
    """Yield the running agent. If no agent runs, start one and remove it at the end.

    Raises:
        AgentError: the agent is paused, the agent has another version, or a new agent does not become ready.
        EngineError: the image could not be built, or the container could not be started.
    """
    image = ensure_image(client, "agent", configuration)
    container = _started_container(client)
    if container is not None and container.status in ("running", "paused"):
        if container.status == "paused":
            raise AgentError(f"container {AGENT!r} is paused: unpause it with `docker unpause {AGENT}`")
        if not _is_of(container, image):
            raise AgentError(
                f"an agent of another version ({container.attrs['Config']['Image']}) is running: "
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
    """Remove the agent and the network if the agent is idle. Return False if a busy agent remains, otherwise True."""
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
    """Start the agent's container with the engine's socket mounted.

    The possible paths of the socket are tried in order. If none of them exists on the engine's host, no socket is mounted.
    """
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
                # Unlike a volume, a bind mount fails if its source does not exist.
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
                break  # another client has started the agent in the meantime
            if socket is None:
                raise
            logger.debug("the agent could not be started with the engine's socket %s: %s", socket, error)
            if container is not None:
                container.remove(force=True, v=True)
    return client.containers.get(AGENT)


def agent_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables in `_VARIABLES` that are set in the given environment, with their values.

    Raises:
        InvalidArgument: a variable has an invalid value.
    """
    found = {name: environment[name] for name in _VARIABLES if environment.get(name)}
    for name, value in found.items():
        if value not in _VARIABLES[name]:
            raise InvalidArgument(
                f"environment variable {name} is {value!r}: set it to {' or '.join(_VARIABLES[name])}, or unset it"
            )
    return found


def _sockets(client: docker.DockerClient) -> list[str | None]:
    """Return the possible paths of the engine's socket on its host, in the order to try. The last item is None (no socket)."""
    return list(dict.fromkeys([socket_path(client) or _SOCKET, _SOCKET, None]))


def _started_container(client: docker.DockerClient) -> DockerContainer | None:
    """Return the agent's container; None if there is none. If another client is starting the container, wait for the start."""
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
    """Stop the agent and remove its container. The agent detaches from its targets before it ends."""
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
                    raise AgentError(f"the agent did not become ready ({error}); its log ends with: {said or 'nothing'}") from error
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
