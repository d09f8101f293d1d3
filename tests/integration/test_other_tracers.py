"""A process under a foreign tracer, in a container under a fault: it is reported, and its tracer sees none of our signals."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from docker.models.containers import Container

from chaosorca.actions.faults import start_fault, stop_all_faults
from chaosorca.engine.agent import find_agent
from chaosorca.engine.client import connect
from chaosorca.engine.command import run_command
from tests.support.waiting import wait_for

DEBUGGER = """
    my $child = fork;
    if (!$child) {
        syscall(101, 0, 0, 0, 0) == 0 or exit 99;
        kill 'STOP', $$;
        for (1 .. 1200) { $denied++ unless open F, '<', '/etc/hostname'; select undef, undef, undef, 0.005 }
        exit($denied ? 1 : 0);
    }
    my $status = pack("i", 0);
    while (syscall(61, $child, $status, 0, 0) == $child && (unpack("i", $status) & 0xff) == 0x7f) {
        my $signal = unpack("i", $status) >> 8; push @seen, $signal;
        syscall(101, 7, $child, 1, $signal == 19 ? 0 : $signal);
    }
    print "@seen, exit ", unpack("i", $status) >> 8;
"""
"""Trace a child at once, let it open a file 1200 times, and print the signals that stop it. 101 is ptrace, 0 PTRACE_TRACEME,
7 PTRACE_CONT, 61 wait4; 19 is the SIGSTOP with which the child waits."""


class Output:
    """Return the output of a command in a container after its end."""

    def __init__(self, target: Container) -> None:
        self.text, self.ended = b"", False
        threading.Thread(target=self._run, args=[target], daemon=True).start()

    def _run(self, target: Container) -> None:
        self.text = run_command(target, ["perl", "-e", DEBUGGER]).output
        self.ended = True


@pytest.mark.parametrize("injector", ["uprobe", "ptrace"])
def test_a_new_debugger_is_reported_and_not_disturbed(injector: str, run_container: Callable[..., Container]) -> None:
    target = run_container(["sleep", "infinity"])
    started = start_fault(container=target.name, syscall="openat", error="EACCES", path="/etc/hostname", injector=injector)
    output = Output(target)

    def reasons_or_end(output: Output) -> list[str]:
        reasons: list[str] = []

        def is_told() -> bool:
            reasons[:] = [reason for reason in not_attached() if "(perl)" in reason]
            return bool(reasons)

        wait_for(lambda: is_told() or output.ended, 10)
        return reasons

    def not_attached() -> list[str]:
        agent = find_agent(connect())
        assert agent is not None
        (fault,) = [one for one in agent.ask("status")["faults"] if one["fault"] == started["fault"]]
        return [one["reason"] for one in fault["not_attached"]]

    while not (reasons := reasons_or_end(output)):  # a process that is attached before it has a child cannot trace that
        assert output.text == b", exit 99"
        output = Output(target)
    (reason,) = reasons
    assert "is being traced by process" in reason
    wait_for(lambda: output.ended, 20)
    assert output.text == b"19, exit 0", "the child was stopped by its own signal only, and no call was hit"
    wait_for(lambda: not not_attached())
    (stopped,) = stop_all_faults()["stopped"]
    assert sum(stopped["injected"].values()) == 0
    if injector == "uprobe":
        assert any("another process traces them" in warning for warning in stopped["warnings"])
