"""Start and stop faults on system calls."""

import contextlib
import random
import uuid

from docker import DockerClient
from logzero import logger

from chaosorca.activity import activity
from chaosorca.engine.agent import ensure_agent, find_agent, retire_agent
from chaosorca.engine.client import connect, engine_errors
from chaosorca.engine.containers import Container, check_selection, count_processes, select_containers, selected_ids
from chaosorca.engine.run_id import RUN_ID
from chaosorca.exceptions import AgentError, OrcaError
from chaosorca.model.fault import Fault, parse_fault
from chaosorca.model.injectors import check_injector, expected_injector
from chaosorca.model.syscall_table import answered_by_vdso, expand_syscalls, machine
from chaosorca.model.values import as_bool, as_int

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
    Inject errors, forged results, signals or delays into system calls of all processes in a running container. The fault lasts
    until it is stopped or its duration is over.

    Arguments:
        syscall: system calls, families ("open*") and classes ("%file", "%network", as in strace), separated by commas.
        container: the container's name, id or id's prefix.
        label: instead of a container, a label (key=value) that selects several running containers.
        error: the name of the errno with which the calls fail, as in "EACCES"; the kernel does not execute these calls.
        retval: a forged result, 0 or greater; the kernel does not execute these calls.
        signal: the name of a signal that the thread receives as it enters the call, as in "SIGUSR1".
        delay_enter: how long a call is delayed before the kernel executes it, with a unit, as in "100ms".
        delay_exit: how long a call is delayed after the kernel has executed it, with a unit.
        when: which calls of each thread are hit, counted as in strace: "3", "3+", "1+3", "2..9", "2..9+2".
        probability: the share of calls to inject, drawn at random from the calls that `when` selects; above 0, up to 1.
        max_faults: the fault ends after this number of injected calls of the whole container; 0: no limit.
        process: only processes whose command line contains this text. The command line is checked at each call.
        path: a path inside the container. Only calls on this file are hit, whichever path, link or descriptor they use.
        duration: how long the fault lasts, with a unit. The agent measures the time, so the fault ends even if Chaos Toolkit dies.
        injector: "uprobe" (our own tracer, woken only for the calls to inject), "ptrace" (the same tracer, woken at every call),
            "strace" (only one fault at a time, and not every kind), or "auto" for the cheapest that can inject the fault here.
        placebo: trace the same processes and system calls, but inject nothing. Tracing alone slows a program down, so a fair
            comparison needs a placebo.
        dry_run: check the fault, and report the containers and processes that it would be attached to. Nothing is attached.
        abort_when: end the fault when this condition holds, as in "error_ratio > 0.5 for 10s", "request_rate < 10 for 5s",
            "latency(0.99) > 500ms for 5s", "error_ratio(4xx,5xx,none) >= 0.9". The agent decides by its own counters.

    The seed of the random decisions is `chaosorca_seed` of the configuration, or a random number.

    Returns:
        {"fault": id, "containers": [{"name", "id", "attached", "not_attached": [{"pid", "reason"}]}], "injector", "syscalls",
        "effects", "begins", "ends", "warnings", "seed"}; times are ISO 8601 in UTC. After a dry run, the id, the times and the seed
        are null, and "attached" is the number of processes that the fault would be attached to.

    Raises:
        ActivityFailed: an argument is invalid, the container is protected, the container has a fault on one of these system calls,
            or the fault could not be attached to any process. No part of a failed fault stays active.
    """
    is_placebo, is_dry_run = as_bool(placebo, "placebo"), as_bool(dry_run, "dry_run")
    check_selection(container, label)
    seed = _seed(configuration)
    client = connect(configuration)
    arch = _architecture(client)
    fault = parse_fault(
        arch,
        syscall,
        error=error,
        retval=retval,
        signal=signal,
        delay_enter=delay_enter,
        delay_exit=delay_exit,
        when=when,
        probability=probability,
        max_faults=max_faults,
        path=path,
        process=process,
        duration=duration,
        placebo=is_placebo,
        abort_when=abort_when,
    )
    wanted = check_injector(injector, fault, arch)
    warnings = [
        f"programs hardly ever make system call {name}, because the vDSO answers it without entering the kernel"
        for name in answered_by_vdso(fault.syscalls, arch)
    ]
    targets = select_containers(client, container, label)
    if is_dry_run:
        return _dry_run(client, fault, targets, expected_injector(wanted, fault, arch), warnings)
    agent = ensure_agent(client, configuration)
    fault_id = uuid.uuid4().hex[:12]
    started: list[dict] = []
    try:
        for target in targets:
            request = {"container": target.to_json(), "fault": fault.to_json(), "injector": wanted, "seed": seed}
            started.append(agent.ask("start_fault", **request, fault_id=fault_id, run=RUN_ID))
        for done in started:
            warnings += [f"{done['name']}: {warning}" for warning in done["warnings"]]
            warnings += [
                f"process {one['pid']} of {done['name']} was not attached: {one['reason']}" for one in done["not_attached"]
            ]
        for warning in warnings:
            logger.warning("fault %s: %s", fault.text, warning)
        return {
            "fault": fault_id,
            "containers": [{key: done[key] for key in ("name", "id", "attached", "not_attached")} for done in started],
            "injector": ", ".join(sorted({done["injector"] for done in started})),
            "syscalls": list(fault.syscalls),
            "effects": list(fault.effects),
            "begins": min(done["begins"] for done in started),
            "ends": max(done["ends"] for done in started),
            "warnings": warnings,
            "seed": seed,
        }
    except BaseException:
        # Ctrl-C and SIGTERM lead here too. The caller does not get the fault's id, so the fault must not stay.
        with contextlib.suppress(OrcaError):
            agent.stop_fault(fault_id=fault_id)
            retire_agent(client)
        raise


@activity
def stop_fault(
    container: str = None,
    label: str = None,
    syscall: str = None,
    configuration: dict = None,
    secrets: dict = None,
) -> dict:
    """
    End the faults of a container, including those of other runs. If there is no fault, the action succeeds.

    Arguments:
        container: the container's name, id or id's prefix.
        label: instead of a container, a label (key=value) that selects several running containers.
        syscall: only the faults on one of these system calls, written as in `start_fault`.

    Returns:
        {"stopped": [{"fault", "container", "text", "begins", "ended", "injected": {system call: calls hit}, …}]}.

    Raises:
        ActivityFailed: a fault could not be detached from a process of the container.
    """
    check_selection(container, label)
    client = connect(configuration)
    syscalls = list(expand_syscalls(syscall, _architecture(client))) if syscall is not None else None
    agent = find_agent(client)
    if agent is None:
        retire_agent(client)  # the container of an exited agent may still exist
        return {"stopped": []}
    ids = selected_ids(client, container, label, [(one.container, one.container_id) for one in reversed(agent.faults())])
    return {"stopped": [one.to_json() for each in ids for one in agent.stop_fault(container=each, syscalls=syscalls)]}


@activity
def stop_all_faults(configuration: dict = None, secrets: dict = None) -> dict:
    """
    End all faults of this Docker Engine, including those of other runs. If there is no fault, the action succeeds.

    Returns:
        the same as `stop_fault`.
    """
    client = connect(configuration)
    agent = find_agent(client)
    stopped = agent.stop_fault() if agent else []
    retire_agent(client)
    return {"stopped": [one.to_json() for one in stopped]}


def _architecture(client: DockerClient) -> str:
    with engine_errors("asking for its architecture"):
        return machine(client.version()["Arch"])


def _seed(configuration: dict | None) -> int:
    given = (configuration or {}).get("chaosorca_seed")
    return random.SystemRandom().getrandbits(63) if given in (None, "") else as_int(given, "chaosorca_seed", 0, 2**63 - 1)


def _dry_run(client: DockerClient, fault: Fault, targets: list[Container], injector: str, warnings: list[str]) -> dict:
    agent = find_agent(client)
    active = [one for one in agent.faults() if one.active] if agent else []
    for target in targets:
        for one in active:
            if one.container_id == target.id and set(one.syscalls) & set(fault.syscalls):
                raise AgentError(f"container {target.name!r} already has fault {one.text!r}: stop it first")
    return {
        "fault": None,
        "containers": [
            {"name": target.name, "id": target.id, "attached": count_processes(client, target), "not_attached": []}
            for target in targets
        ],
        "injector": injector,
        "syscalls": list(fault.syscalls),
        "effects": list(fault.effects),
        "begins": None,
        "ends": None,
        "warnings": [*warnings, "this was a dry run: the fault was not attached"],
        "seed": None,
    }
