"""strace's command line and output."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from chaosorca.agent.faults.injection import delays
from chaosorca.agent.injectors.strace import Line, parse_line, strace_command
from chaosorca.model.fault import parse_fault


# Lines of strace 6.1 with -f -T -e raw.
@pytest.mark.parametrize(
    ("line", "call"),
    [
        (
            "9834  openat(0xffffff9c, 0x561183fbd361, 0x800, 0) = 0xc <0.000010>",
            Line("openat", "", False, False, 0.000010, 0),
        ),
        (
            "21606 openat(0xffffff9c, 0x55d6393d3c90, 0x80000, 0) = -1 ENOENT (No such file or directory) <0.000003>",
            Line("openat", "ENOENT", False, False, 0.000003, 0),
        ),
        (
            "9834  openat(0xffffff9c, 0x561183fbd361, 0x800, 0) = -1 EACCES (Permission denied) (INJECTED) <0.000004>",
            Line("openat", "EACCES", True, False, 0.000004, 0),
        ),
        (
            "9834  openat(0xffffff9c, 0x561183fbd361, 0x800, 0) = -1 EACCES (Permission denied) (INJECTED) (DELAYED) <0.000004>",
            Line("openat", "EACCES", True, True, 0.000004, 0),
        ),
        ("9834  openat(0xffffff9c, 0x1, 0x800, 0) = 0xc (DELAYED) <0.050083>", Line("openat", "", False, True, 0.050083, 0)),
        ("9834  openat(0xffffff9c, 0x1, 0, 0) = 0 (INJECTED) <0.000004>", Line("openat", "", True, False, 0.000004, 0)),
        ("9834  <... openat resumed>) = 0x3 (DELAYED) <0.05>", Line("openat", "", False, True, 0.05, 0)),
        ("9834  <... openat resumed>)         = 0x3 <0.000100>", Line("openat", "", False, False, 0.0001, 0)),
        (
            "9834  <... openat resumed>) = -1 EACCES (Permission denied) (INJECTED) (DELAYED) <0.000004>",
            Line("openat", "EACCES", True, True, 0.000004, 0),
        ),
        ("7 close(0x3)                      = 0 <0.000005>", Line("close", "", False, False, 0.000005, 0)),
        ("9834  getpid()                    = 0x266a <0.000002>", Line("getpid", "", False, False, 0.000002, 0)),
        ("9834  read(0x3, 0x7ffd, 0x400) = 0 <1.000123>", Line("read", "", False, False, 1.000123, 0)),
        ("4194304 read(0x3, 0x7ffd, 0x400) = 0 <12.5>", Line("read", "", False, False, 12.5, 0)),
        (
            "9834  openat2(0xffffff9c, 0x1, 0x2, 0x18) = -1 E2BIG (Argument list too long) <0.1>",
            Line("openat2", "E2BIG", False, False, 0.1, 0),
        ),
        ("9834  syscall_0x1c3(0x3, 0x1, 0x2, 0, 0, 0) = 0 <0.000007>", Line("syscall_0x1c3", "", False, False, 0.000007, 0)),
        (
            "21617 <... clock_nanosleep resumed>)    = -1 ERESTART_RESTARTBLOCK (Unknown error 516) (DELAYED) <0.198403>",
            Line("clock_nanosleep", "ERESTART_RESTARTBLOCK", False, True, 0.198403, 0),
        ),
        (
            "9834  read(0x3, 0x1, 0x2) = -1 ERESTARTSYS (Unknown error 512) <0.2>",
            Line("read", "ERESTARTSYS", False, False, 0.2, 0),
        ),
        ("9834  read(0x3, 0x1, 0x2) = 0x5", Line("read", "", False, False, 0.0, 0)),
        ("9834  write(0x1, 0x1, 0x2) = 0x2 (INJECTED)", Line("write", "", True, False, 0.0, 0)),
    ],
)
@pytest.mark.parametrize("end", ["", "\n"])
def test_a_finished_call_is_read(line: str, call: Line, end: str) -> None:
    read = parse_line(line + end)
    assert read is not None
    assert replace(read, thread=0) == call
    assert read.thread == int(line.split()[0])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\n",
        "9834  openat(0xffffff9c, 0x1, 0, 0 <unfinished ...>",
        "21617 clock_nanosleep(0, 0, 0x7fff145fbca0, 0x7fff145fbce0 <unfinished ...>",
        "9834  openat(0xffffff9c, 0x1, 0, 0 <detached ...>",
        "9834  openat(0xffffff9c, 0x1",
        "9834  +++ exited with 0 +++",
        "21617 +++ killed by SIGUSR1 +++",
        "9834  +++ superseded by execve in pid 9835 +++",
        "9834  --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=9835, si_uid=0, si_status=0, si_utime=0, si_stime=0} ---",
        "9834  --- SIGUSR1 {si_signo=SIGUSR1, si_code=SI_USER, si_pid=21616, si_uid=0} ---",
        "9834  --- stopped by SIGSTOP ---",
        "9834  ????( <unfinished ...>",
        "strace: Process 9834 attached",
        "strace: Process 9834 detached",
        "openat(0xffffff9c, 0x1, 0, 0) = 0x3 <0.1>",
        "hello",
    ],
)
def test_any_other_line_is_no_call(line: str) -> None:
    assert parse_line(line) is None


@pytest.mark.parametrize(
    "line",
    [
        "21606 clock_nanosleep(0, 0, 0x7ffceb5ce470, 0x7ffceb5ce4b0) = ?",
        "9834  read(0x3, 0x1, 0x2 <unfinished ...>) = ?",
        "9834  <... read resumed> <unfinished ...>) = ?",
        "9834  <... read resumed>) = ? <unavailable>",
        "9834  exit_group(0)                     = ?",
    ],
)
def test_a_call_in_which_its_thread_was_killed_has_not_returned(line: str) -> None:
    read = parse_line(line)
    assert read is not None
    assert (read.returned, read.error, read.injected, read.delayed, read.seconds) == (False, "", False, False, 0.0)


@pytest.mark.parametrize(
    ("arguments", "names", "inject"),
    [
        ({"syscall": "openat", "error": "EACCES"}, "openat", "inject=openat:error=EACCES"),
        ({"syscall": "openat,read", "error": "EWOULDBLOCK"}, "openat,read", "inject=openat,read:error=EAGAIN"),
        ({"syscall": "read", "delay_enter": "100ms"}, "read", "inject=read:delay_enter=100000us"),
        ({"syscall": "read", "delay_exit": "250us"}, "read", "inject=read:delay_exit=250us"),
        ({"syscall": "read", "retval": "5"}, "read", "inject=read:retval=5"),
        ({"syscall": "read", "retval": 0, "signal": "usr1"}, "read", "inject=read:retval=0:signal=SIGUSR1"),
        ({"syscall": "read", "error": "EIO", "when": "02..9+2"}, "read", "inject=read:error=EIO:when=2..9+2"),
        (
            {"syscall": "openat,read", "error": "EIO", "delay_enter": "1ms", "delay_exit": "2s", "when": "3+", "duration": "5s"},
            "openat,read",
            "inject=openat,read:error=EIO:delay_enter=1000us:delay_exit=2000000us:when=3+",
        ),
        (
            {"syscall": "set_mempolicy_home_node", "error": "EIO"},
            "set_mempolicy_home_node",
            "inject=set_mempolicy_home_node:error=EIO",
        ),
    ],
)
@pytest.mark.parametrize(("pids", "listed"), [([10], "10"), ([10, 11, 4194304], "10,11,4194304")])
def test_the_command_is_exact(arguments: dict[str, Any], names: str, inject: str, pids: list[int], listed: str) -> None:
    fault = parse_fault("x86_64", **arguments)
    assert strace_command(fault, pids, 7) == [
        *("strace", "-f", "-qq", "-T", "-e", "signal=none", "-o", "/dev/fd/7"),
        *("-e", f"trace={names}", "-e", f"raw={names}", "-e", inject, "-p", listed),
    ]


@pytest.mark.parametrize(
    ("arguments", "timed"),
    [
        ({"error": "EIO"}, False),
        ({"delay_enter": "1ms"}, True),
        ({"delay_exit": "1ms"}, True),
        ({"error": "EIO", "delay_exit": "1ms"}, True),
        ({"delay_exit": "1ms", "placebo": True}, False),
    ],
)
def test_only_a_tracer_can_time_calls_that_are_delayed(arguments: dict[str, Any], timed: bool) -> None:
    assert delays(parse_fault("x86_64", "openat,read", **arguments)) is timed


def test_a_placebo_traces_the_same_calls_and_injects_nothing() -> None:
    fault = parse_fault("x86_64", "openat,read", error="EIO", when="3+")
    placebo = parse_fault("x86_64", "openat,read", error="EIO", when="3+", placebo=True)
    with_fault, with_placebo = strace_command(fault, [10], 7), strace_command(placebo, [10], 7)
    at = with_fault.index("inject=openat,read:error=EIO:when=3+")
    assert with_placebo == with_fault[: at - 1] + with_fault[at + 1 :]
