"""The `chaosorca` command. It calls the same functions as experiments do.

Exit codes: 0 done, 1 failed, 2 wrong use. Results go to standard output. Progress, warnings and errors go to standard error.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import click
from chaoslib.exceptions import ChaosException
from logzero import logger

from chaosorca import __version__
from chaosorca.actions.faults import start_fault, stop_all_faults, stop_fault
from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.actions.prometheus import start_prometheus, stop_prometheus
from chaosorca.engine import doctor, prometheus
from chaosorca.engine.agent import find_agent, retire_agent
from chaosorca.engine.client import connect
from chaosorca.exceptions import AgentError, InvalidArgument, OrcaError, PortTaken
from chaosorca.metrics import measure, tables
from chaosorca.model.counted import counted
from chaosorca.model.duration import parse_seconds
from chaosorca.model.record import FaultRecord
from chaosorca.model.times import iso
from chaosorca.sources import open_prometheus, series_name

FAILED, WRONG_USE = 1, 2

_STARTED_BY, _MONIT = "chaosorca.started-by", "monit"
_name = click.option("--name", "-n", required=True, help="The container's name or id.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="chaosorca")
@click.option(
    "--docker-host", envvar="CHAOSORCA_DOCKER_HOST", help="The address of the Docker Engine; default: that of the docker command."
)
@click.option(
    "--base-image", envvar="CHAOSORCA_BASE_IMAGE", help="The image to build our images from; default: debian:bookworm-slim."
)
@click.option(
    "--prometheus-url", envvar="PROMETHEUS_BASE_URL", help="The address of a Prometheus that scrapes the agent; default: our own."
)
@click.pass_context
def cli(context: click.Context, docker_host: str | None, base_image: str | None, prometheus_url: str | None) -> None:
    """Inject faults into system calls of running, unmodified Docker containers, and monitor how the service responds."""
    given = {"chaosorca_docker_host": docker_host, "chaosorca_base_image": base_image, "prometheus_base_url": prometheus_url}
    context.obj = {key: value for key, value in given.items() if value}


@cli.group()
def prom() -> None:
    """Start and stop Prometheus."""


@prom.command("start")
@click.option("--port", default="9090", show_default=True, help="The port on 127.0.0.1; 0: a free port.")
@click.option("--scrape-interval", default="1s", show_default=True, help="The time between scrapes.")
@click.pass_obj
def prom_start(configuration: dict[str, Any], port: str, scrape_interval: str) -> None:
    """Start Prometheus on 127.0.0.1."""
    started = start_prometheus(port=port, scrape_interval=scrape_interval, configuration=configuration)  # type: ignore[arg-type]
    click.echo(f"Prometheus {'started' if started['started'] else 'already runs'} at {started['url']}")


@prom.command("stop")
@click.option("--keep-data", is_flag=True, help="Keep the recorded data for the next start.")
@click.pass_obj
def prom_stop(configuration: dict[str, Any], keep_data: bool) -> None:
    """Stop Prometheus."""
    stopped = stop_prometheus(keep_data=keep_data, configuration=configuration)["stopped"]
    click.echo("Prometheus stopped" if stopped else "Prometheus was not running")


@cli.group()
def monit() -> None:
    """Start and stop the monitoring of a container."""


@monit.command("start")
@_name
@click.pass_obj
def monit_start(configuration: dict[str, Any], name: str) -> None:
    """Monitor a container. If no Prometheus runs, start one too; the last `monit stop` stops it."""
    targets = start_monitoring(container=name, configuration=configuration)
    try:
        _ensure_prometheus(configuration)
        measure.wait_for_scrapes(open_prometheus(configuration), [target["name"] for target in targets], 1)
    except BaseException:
        for target in targets:
            if target["new"]:
                stop_monitoring(container=target["id"], configuration=configuration)
        raise
    for target in targets:
        click.echo(f"monitoring {target['name']}: {', '.join(target['monitors'])}")


@monit.command("stop")
@_name
@click.pass_obj
def monit_stop(configuration: dict[str, Any], name: str) -> None:
    """Stop monitoring a container."""
    stopped = stop_monitoring(container=name, configuration=configuration)["stopped"]
    click.echo(f"stopped monitoring {', '.join(stopped)}" if stopped else f"{name} was not monitored")
    _remove_unused(configuration)


@cli.group()
def fault() -> None:
    """Start, stop and list faults on system calls."""


@fault.command("start")
@click.option("--name", "-n", help="The container's name or id.")
@click.option("--label", "-l", help="Instead of a name, a label (key=value) that selects several containers.")
@click.option("--syscall", "-s", required=True, help="System calls, families (open*) and classes (%file), separated by commas.")
@click.option("--error", "-e", help="The errno that calls fail with, as in EACCES.")
@click.option("--retval", help="A forged result, 0 or greater.")
@click.option("--signal", help="A signal that the thread receives as it enters the call, as in SIGUSR1.")
@click.option("--delay-enter", help="How long a call is delayed before the kernel executes it, as in 100ms.")
@click.option("--delay-exit", help="How long a call is delayed after the kernel has executed it, as in 100ms.")
@click.option("--when", help="Which calls of each thread to inject, as strace counts them: 3, 3+, 1+3, 2..9+2.")
@click.option("--probability", default="1", show_default=True, help="The share of those calls to inject, drawn at random; up to 1.")
@click.option(
    "--max-faults",
    default="0",
    show_default=True,
    help="The number of hit calls of the container after which the fault ends; 0: no limit.",
)
@click.option("--path", help="Only calls on this file, as the container sees it.")
@click.option("--process", help="Only processes whose command line contains this text.")
@click.option("--duration", default="10m", show_default=True, help="How long the fault lasts.")
@click.option("--abort-when", help="End the fault when this holds, as in 'error_ratio > 0.5 for 10s'.")
@click.option("--placebo", is_flag=True, help="Attach as the fault would, but inject nothing.")
@click.option(
    "--injector",
    default="auto",
    show_default=True,
    help="uprobe, ptrace, strace, or auto for the cheapest that can inject the fault.",
)
@click.option("--dry-run", is_flag=True, help="Check the fault and report what it would be attached to, without attaching it.")
@click.pass_obj
def fault_start(configuration: dict[str, Any], /, name: str | None, **options: Any) -> None:
    """Inject errors, forged results, signals or delays into system calls of all processes in a container."""
    started = start_fault(container=name, configuration=configuration, **options)
    what = f"{', '.join(started['effects'])} on {', '.join(started['syscalls'])}"
    what = f"placebo of {what}" if options["placebo"] else what
    for one in started["containers"]:
        if options["dry_run"]:
            click.echo(f"a fault on {one['name']}: {what}, would be attached to {_processes(one['attached'])}")
        else:
            attached = f"attached to {_processes(one['attached'])}, ends {started['ends']}"
            click.echo(f"fault {started['fault']} on {one['name']}: {what}, {attached}")
    for warning in started["warnings"]:
        click.echo(f"warning: {warning}", err=True)


@fault.command("stop")
@click.option("--name", "-n", help="The container's name or id.")
@click.option("--syscall", "-s", help="Only the faults on this system call.")
@click.option("--all", "every", is_flag=True, help="All faults of this Docker Engine.")
@click.pass_obj
def fault_stop(configuration: dict[str, Any], name: str | None, syscall: str | None, every: bool) -> None:
    """End the faults of a container, or all faults."""
    if bool(name) == every:
        raise click.UsageError("give either --name or --all")
    if name:
        stopped = stop_fault(container=name, syscall=syscall, configuration=configuration)["stopped"]
    else:
        stopped = stop_all_faults(configuration=configuration)["stopped"]
    for one in stopped:
        click.echo(f"stopped {_describe(FaultRecord.from_json(one))}")
    if not stopped:
        click.echo("no fault was active")
    _remove_unused(configuration)


@fault.command("list")
@click.pass_obj
def fault_list(configuration: dict[str, Any]) -> None:
    """List active and ended faults."""
    agent = find_agent(connect(configuration))
    faults = agent.faults() if agent else []
    for one in faults:
        state = f"active until {iso(one.ends)}" if one.ended is None else f"ended {iso(one.ended)}, {one.reason}"
        click.echo(f"{_describe(one)}, {state}")
        for missing in one.not_attached:
            click.echo(f"  process {missing.pid} is not attached: {missing.reason}")
        for warning in one.warnings:
            click.echo(f"  warning: {warning}")
    if not faults:
        click.echo("there are no faults")


@cli.command("metric")
@click.argument("metric")
@_name
@click.option("--since", default="15m", show_default=True, help="How far back to go.")
@click.option("--step", default="1s", show_default=True, help="The least time between rows.")
@click.option("--window", help="The time over which rates are smoothed; default: none.")
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead of standard output."
)
@click.pass_obj
def metric_command(
    configuration: dict[str, Any], metric: str, name: str, since: str, step: str, window: str | None, output: Path | None
) -> None:
    """Print a metric of a container as CSV: cpu, http, latency, io, mem, netr, nets or syscall."""
    tables.check_metric(metric)
    seconds, least = parse_seconds(since, "since"), parse_seconds(step, "step")
    smooth = parse_seconds(window, "window") if window else 0.0
    source, series, end = open_prometheus(configuration), series_name(name, configuration), time.time()
    table = tables.read_table(source, series, metric, end - seconds, end, least, smooth)
    if not table.times:
        raise OrcaError(
            f"container {name!r} was not monitored in the last {since}: start monitoring with `chaosorca monit start --name {name}`"
        )
    text = tables.to_csv(table)
    if output is None:
        click.echo(text, nl=False)
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OrcaError(f"cannot write {output}: {error.strerror}") from error


@cli.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def doctor_command(configuration: dict[str, Any], as_json: bool) -> None:
    """Test what this engine and kernel support. For each missing feature, say what to do.

    If no agent runs, one is started and removed afterwards. The exit code is 0 if faults and monitoring work, else 1.
    """
    findings = doctor.examine(configuration)
    if as_json:
        result = {"ok": doctor.works(findings), "checks": [finding.to_json() for finding in findings]}
        click.echo(json.dumps(result, indent=2))
    else:
        for finding in findings:
            click.echo(str(finding))
    if not doctor.works(findings):
        raise click.exceptions.Exit(FAILED)


@cli.group()
def debug() -> None:
    """Look into the running agent."""


@debug.command("maps")
@click.option("--program", "-p", help="Only the maps of this eBPF program.")
@click.pass_obj
def debug_maps(configuration: dict[str, Any], program: str | None) -> None:
    """Print the content of the agent's kernel maps as JSON."""
    agent = find_agent(connect(configuration))
    if agent is None:
        raise AgentError("no agent is running: start monitoring or a fault first")
    maps = agent.ask("dump_maps")
    if program is not None:
        if program not in maps:
            raise AgentError(f"the agent has not loaded program {program!r}: there are {', '.join(sorted(maps)) or 'none'}")
        maps = {program: maps[program]}
    click.echo(json.dumps(maps, indent=2))


def main() -> None:
    """Run the command, and exit with its code. Errors are shown without a traceback."""
    for handler in logger.handlers:
        handler.setFormatter(logging.Formatter("%(message)s"))
    logger.setLevel(logging.INFO)
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(WRONG_USE)
    except click.ClickException as error:
        _fail(error.format_message().replace("\n", " "), WRONG_USE)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except (OrcaError, ChaosException) as error:
        cause = error if isinstance(error, OrcaError) else error.__cause__
        _fail(str(error), WRONG_USE if isinstance(cause, InvalidArgument) else FAILED)
    except BrokenPipeError:
        sys.exit(FAILED)
    except Exception as error:
        _fail(f"this is a bug in chaosorca, please report it: {type(error).__name__}: {error}", FAILED)


def _fail(message: str, code: int) -> None:
    click.echo(f"chaosorca: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _describe(one: FaultRecord) -> str:
    missing = len(one.not_attached)
    attached = f", {_processes(missing)} not attached" if missing else ""
    return f"fault {one.id} on {one.container}: {one.text} by {one.injector}, {one.state}{attached}"


def _processes(number: int) -> str:
    return counted(number, "process", "processes")


def _remove_unused(configuration: dict[str, Any]) -> None:
    """Remove the agent if it is idle. Then remove the Prometheus that `monit start` has started."""
    client = connect(configuration)
    if retire_agent(client) and prometheus.prometheus_label(client, _STARTED_BY) == _MONIT:
        stop_prometheus(configuration=configuration)
        click.echo("stopped the Prometheus that `monit start` started, and removed its data (`prom start` starts one that stays)")


def _ensure_prometheus(configuration: dict[str, Any]) -> None:
    """Start Prometheus on its usual port or on a free one, unless a Prometheus is configured or already runs."""
    client = connect(configuration)
    if configuration.get("prometheus_base_url") or prometheus.is_running(client):
        return
    labels = {_STARTED_BY: _MONIT}
    try:
        started = prometheus.start_prometheus(client, configuration, 9090, 1_000_000, labels=labels)
    except PortTaken:
        started = prometheus.start_prometheus(client, configuration, 0, 1_000_000, labels=labels)
    click.echo(f"Prometheus started at {started['url']}", err=True)


if __name__ == "__main__":
    main()
