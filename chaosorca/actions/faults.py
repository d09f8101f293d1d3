"""Start and stop faults on system calls."""

import contextlib
import uuid

from logzero import logger

from chaosorca.activity import activity
from chaosorca.engine.agent import ensure_agent, find_agent, retire_agent
from chaosorca.engine.client import connect, engine_errors
from chaosorca.engine.containers import find_container, name_and_id
from chaosorca.engine.run import RUN_ID
from chaosorca.exceptions import InvalidArgument, OrcaError
from chaosorca.model.fault import INJECTORS, parse_fault
from chaosorca.model.nearest import nearest
from chaosorca.model.syscalls import check_known, machine
from chaosorca.model.values import as_bool, as_int, as_number

__all__ = ["start_fault", "stop_all_faults", "stop_fault"]


@activity
def start_fault(
    syscall: str,
    container: str = None,
    error: str = None,
    retval: str = None,
    signal: str = None,
    delay_enter: str = None,
    delay_exit: str = None,
    when: str = None,
    probability: float = 1.0,
    max_faults: int = 0,
    process: str = None,
    path: str = None,
    label: str = None,
    duration: str = "10m",
    placebo: bool = False,
    dry_run: bool = False,
    injector: str = "auto",
    abort_when: str = None,
    configuration: dict = None,
    secrets: dict = None,
) -> dict:
    """
    Make system calls of all processes of a running container fail or slow, until the fault is stopped or its duration is over.

    Arguments:
        syscall: the system call, or several separated by commas.
        container: the container's name, id or id's prefix.
        error: the errno that calls fail with, by name, as in "EACCES"; they are not made then.
        delay_enter: how long a call is held before it is made, with a unit, as in "100ms".
        delay_exit: how long its result is held back, with a unit.
        when: on which calls of each thread, as strace counts them: "3", "3+", "1+3", "2..9", "2..9+2".
        duration: how long the fault lasts, with a unit; the agent keeps this clock.
        injector: "strace", or "auto" for the best one that can do it.
        retval, signal, probability, max_faults, process, path, label, placebo, dry_run, abort_when: not supported yet.

    Returns:
        {"fault": id, "containers": [{"name", "id", "attached", "not_attached": [{"pid", "reason"}]}], "injector", "syscalls",
        "effects", "begins", "ends", "warnings"}; times are ISO 8601 in UTC.

    Raises:
        ActivityFailed: an argument makes no sense or is not supported yet, the container must not be touched, has a fault
            already, or no process of it could be attached; nothing is left then.
    """
    _refuse_unsupported(
        retval=retval,
        signal=signal,
        process=process,
        path=path,
        label=label,
        abort_when=abort_when,
        probability=as_number(probability, "probability", 0, 1) != 1,
        max_faults=as_int(max_faults, "max_faults", 0, 2**31) != 0,
        placebo=as_bool(placebo, "placebo"),
        dry_run=as_bool(dry_run, "dry_run"),
    )
    if injector not in INJECTORS:
        raise InvalidArgument(
            f"injector {injector!r} does not exist{nearest(str(injector), INJECTORS)}: there are {', '.join(INJECTORS)}"
        )
    if container is None:
        raise InvalidArgument("give the container whose system calls are to fail")
    client = connect(configuration)
    with engine_errors("asking for its architecture"):
        arch = machine(client.version()["Arch"])
    fault = parse_fault(arch, syscall, error, delay_enter, delay_exit, when, duration)
    target = find_container(client, container)
    agent = ensure_agent(client, configuration)
    fault_id = uuid.uuid4().hex[:12]
    try:
        done = agent.ask("start_fault", container=target.to_json(), fault=fault.to_json(), fault_id=fault_id, run=RUN_ID)
    except BaseException:
        # Whatever was the matter, also Ctrl-C while the agent attaches: this fault is not to stay.
        with contextlib.suppress(OrcaError):
            agent.ask("stop_fault", fault_id=fault_id)
            retire_agent(client)
        raise
    warnings = [f"process {one['pid']} was not attached: {one['reason']}" for one in done["not_attached"]]
    for warning in warnings:
        logger.warning("fault %s on container %s: %s", done["text"], target.name, warning)
    return {
        "fault": fault_id,
        "containers": [{key: done[key] for key in ("name", "id", "attached", "not_attached")}],
        "injector": "strace",
        "syscalls": done["syscalls"],
        "effects": done["effects"],
        "begins": done["begins"],
        "ends": done["ends"],
        "warnings": warnings,
    }


@activity
def stop_fault(
    container: str = None,
    label: str = None,
    syscall: str = None,
    configuration: dict = None,
    secrets: dict = None,
) -> dict:
    """
    End the faults of a container, whoever started them. No fault is success.

    Arguments:
        container: the container's name, id or id's prefix.
        syscall: only the faults on this system call, or on one of several separated by commas.
        label: not supported yet.

    Returns:
        {"stopped": [{"fault", "container", "text", "begins", "ended", "injected": {system call: calls tampered with}, …}]}.

    Raises:
        ActivityFailed: a process of the container could not be released.
    """
    _refuse_unsupported(label=label)
    if container is None:
        raise InvalidArgument("give the container whose faults are to end, or use stop_all_faults")
    syscalls = [check_known(name.strip()) for name in str(syscall).split(",")] if syscall is not None else None
    client = connect(configuration)
    agent = find_agent(client)
    if agent is None:
        retire_agent(client)  # one that has died
        return {"stopped": []}
    faults = agent.ask("status")["faults"]
    found = name_and_id(client, container, [(one["container"], one["container_id"]) for one in reversed(faults)])
    return agent.ask("stop_fault", container=found[1], syscalls=syscalls) if found else {"stopped": []}


@activity
def stop_all_faults(configuration: dict = None, secrets: dict = None) -> dict:
    """
    End all faults of this Docker Engine, those of other runs too. No fault is success.

    Returns:
        what `stop_fault` does.
    """
    client = connect(configuration)
    agent = find_agent(client)
    result = agent.ask("stop_fault") if agent else {"stopped": []}
    retire_agent(client)
    return result


def _refuse_unsupported(**arguments: object) -> None:
    for name, value in arguments.items():
        if value is not None and value is not False:
            raise InvalidArgument(f"argument {name} is not supported yet: leave it out")
