"""Which faults each injector supports."""

from __future__ import annotations

import platform
import shutil
import subprocess

import pytest

from chaosorca.agent.injectors.strace import strace_command
from chaosorca.model.errors import InvalidArgument
from chaosorca.model.fault import read_fault
from chaosorca.model.injectors import check_injector, expected_injector, strace_cannot, uprobe_cannot
from chaosorca.model.syscall_table import machine

EXPRESSIBLE = [
    "openat:error=EACCES",
    "openat,read:error=EAGAIN:when=3+",
    "open*:error=ENOENT:when=2..9+2",
    "%network:delay_enter=100ms",
    "read:retval=0:signal=SIGUSR1",
    "read:retval=9223372036854775807",
    "read:error=EIO:delay_enter=1us:delay_exit=8784h",
    "read:error=EIO:when=65535+65535",
    "read:error=EIO:when=1..65534",
    "read:signal=SIGKILL",
    "exit_group:delay_enter=1s",
    "placebo:read:error=EIO:when=1+3",
]


@pytest.mark.parametrize("text", EXPRESSIBLE)
def test_strace_can(text: str) -> None:
    fault = read_fault(text, "x86_64")
    assert strace_cannot(fault, "x86_64") is None
    assert check_injector("strace", fault, "x86_64") == "strace"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("read:error=EIO:probability=0.999", "a probability"),
        ("read:error=EIO:max_faults=1", "a budget (max_faults)"),
        ("read:error=EIO:path=/a", "a path"),
        ("read:error=EIO:process=a", "a process"),
        ("placebo:read:error=EIO:probability=0.5", "a probability"),
        ("read,cachestat:error=EIO", "system call 'cachestat'"),
        ("fchmod*:error=EIO", "system call 'fchmodat2'"),
        ("uretprobe:delay_enter=1s", "system call 'uretprobe'"),
        ("read:signal=SIGHUP:delay_enter=1s", "a signal with delay_enter"),
        ("read:error=EIO:when=1..65535", "a range of calls that ends at 65535"),
        ("read:error=EIO:when=1..65535+2", "a range of calls that ends at 65535"),
    ],
)
def test_strace_cannot(text: str, what: str) -> None:
    fault = read_fault(text, "x86_64")
    assert str(strace_cannot(fault, "x86_64")).startswith(what)
    assert check_injector("auto", fault, "x86_64") == "auto"
    assert check_injector("ptrace", fault, "x86_64") == "ptrace"
    with pytest.raises(InvalidArgument) as refused:
        check_injector("strace", fault, "x86_64")
    assert str(refused.value).startswith(f"injector 'strace' does not support {what}")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed here: the integration tests ask the agent's")
@pytest.mark.parametrize("text", EXPRESSIBLE)
def test_an_installed_strace_accepts_the_fault(text: str) -> None:
    command = strace_command(read_fault(text, machine(platform.machine())), [1], 1)[:-2]
    judged = subprocess.run([*command, "-V"], capture_output=True, text=True, timeout=10, check=False)
    assert (judged.returncode, [line for line in judged.stderr.splitlines() if "invalid" in line]) == (0, [])


@pytest.mark.parametrize(
    ("text", "arch", "what"),
    [
        ("read:error=EIO:path=/a:process=b:max_faults=1:probability=0.1", "x86_64", None),
        ("read:signal=SIGHUP:delay_enter=1s", "x86_64", None),
        ("clone3:error=EAGAIN", "x86_64", "a fault on clone3, which C libraries call with all signals blocked"),
        ("fork*:error=EAGAIN", "x86_64", "a fault on fork"),
        ("%process:delay_enter=1s", "x86_64", "a fault on clone"),
        ("read:error=EIO", "aarch64", "a fault on aarch64"),
    ],
)
def test_uprobes_cannot(text: str, arch: str, what: str | None) -> None:
    fault = read_fault(text, arch)
    reason = uprobe_cannot(fault, arch)
    assert reason == what or str(reason).startswith(str(what))
    assert expected_injector("auto", fault, arch) == ("ptrace" if what else "uprobe")
    assert expected_injector("strace", fault, arch) == "strace"
    if what is not None:
        with pytest.raises(InvalidArgument, match=f"injector 'uprobe' does not support {what}"):
            check_injector("uprobe", fault, arch)
