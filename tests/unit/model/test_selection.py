"""The calls of a fault: families, classes, signals, and strace's `when` call by call."""

from __future__ import annotations

import pytest

from chaosorca.model.errors import InvalidArgument
from chaosorca.model.fault import parse_fault
from chaosorca.model.signals import SIGNALS, check_signal
from chaosorca.model.syscall_table import expand_syscalls, syscall_classes, syscall_numbers
from chaosorca.model.when import when_matches


@pytest.mark.parametrize(
    ("text", "arch", "names"),
    [
        ("openat", "x86_64", ("openat",)),
        ("openat, read,openat", "x86_64", ("openat", "read")),
        ("open*", "x86_64", ("open", "openat", "openat2", "creat")),
        ("open*", "aarch64", ("openat", "openat2")),
        ("stat*", "aarch64", ("fstat", "newfstatat", "statx")),
        ("accept*", "x86_64", ("accept", "accept4")),
        ("epoll_*", "aarch64", ("epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2")),
        ("%statfs", "aarch64", ("statfs",)),
        ("%lstat,read", "x86_64", ("lstat", "read")),
    ],
)
def test_names_families_and_classes_select_these_calls(text: str, arch: str, names: tuple[str, ...]) -> None:
    found = expand_syscalls(text, arch)
    assert sorted(found) == sorted(names)
    assert expand_syscalls(",".join(found), arch) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("%fil", "class '%fil' of system calls does not exist: did you mean 'file'"),
        ("%", "class '%' of system calls does not exist"),
        ("%file,", "names no system call"),
        ("nothing*", "syscall 'nothing*' matches no system call of x86_64"),
        ("*", "syscall '*' matches no system call"),
        ("open%", "system call 'open%' does not exist"),
        ("*at", "system call '*at' does not exist"),
        (["openat"], "names no system call"),
    ],
)
def test_a_text_without_a_matching_call_is_refused(text: object, says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        expand_syscalls(text, "x86_64")
    assert says in str(refused.value)


def test_a_family_without_a_member_on_an_architecture_is_refused() -> None:
    assert expand_syscalls("vfor*", "x86_64") == ("vfork",)
    with pytest.raises(InvalidArgument, match="matches no system call of aarch64"):
        expand_syscalls("vfor*", "aarch64")


def test_every_member_of_a_class_is_a_system_call() -> None:
    for members in syscall_classes().values():
        assert members <= syscall_numbers("x86_64").keys()


@pytest.mark.parametrize(
    ("name", "members", "others"),
    [
        ("file", {"open", "openat", "execve", "newfstatat", "unlink", "chdir"}, {"read", "close", "socket"}),
        ("network", {"socket", "connect", "sendto", "accept4"}, {"read", "openat"}),
        ("process", {"fork", "execve", "exit_group", "wait4", "kill"}, {"getpid", "openat"}),
        ("desc", {"read", "write", "close", "openat", "epoll_wait", "sendfile"}, {"chdir", "getpid"}),
        ("memory", {"mmap", "munmap", "brk", "mprotect"}, {"read"}),
        ("signal", {"rt_sigaction", "rt_sigreturn", "kill"}, {"read"}),
    ],
)
def test_classes_agree_with_strace(name: str, members: set[str], others: set[str]) -> None:
    assert members <= syscall_classes()[name]
    assert not others & syscall_classes()[name]


@pytest.mark.parametrize(
    ("given", "name"),
    [("SIGUSR1", "SIGUSR1"), ("usr1", "SIGUSR1"), (" sigterm ", "SIGTERM"), ("SIGPOLL", "SIGIO"), ("IOT", "SIGABRT")],
)
def test_signals_by_name(given: str, name: str) -> None:
    assert check_signal(given) == name
    assert name in SIGNALS


@pytest.mark.parametrize("given", ["SIGUSR3", "", "10", 10, True, "SIG", "SIGRTMIN"])
def test_no_signal(given: object) -> None:
    with pytest.raises(InvalidArgument, match="signal"):
        check_signal(given)


@pytest.mark.parametrize(
    ("when", "calls"),
    [
        (None, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("3", [3]),
        ("3+", [3, 4, 5, 6, 7, 8, 9]),
        ("1+3", [1, 4, 7]),
        ("2..4", [2, 3, 4]),
        ("2..9+2", [2, 4, 6, 8]),
        ("9..9", [9]),
    ],
)
def test_when_call_by_call(when: str | None, calls: list[int]) -> None:
    assert [call for call in range(1, 10) if when_matches(when, call)] == calls


@pytest.mark.parametrize(
    ("arguments", "text", "effects"),
    [
        ({"retval": "0"}, "read:retval=0", ("retval",)),
        ({"retval": 2**63 - 1}, "read:retval=9223372036854775807", ("retval",)),
        ({"signal": "hup"}, "read:signal=SIGHUP", ("signal",)),
        (
            {"signal": "HUP", "error": "EIO", "delay_exit": "1s"},
            "read:error=EIO:signal=SIGHUP:delay_exit=1s",
            ("error", "signal", "delay_exit"),
        ),
        ({"retval": 1, "placebo": True}, "placebo:read:retval=1", ("retval",)),
    ],
)
def test_effects(arguments: dict, text: str, effects: tuple[str, ...]) -> None:
    fault = parse_fault("x86_64", "read", **arguments)
    assert (fault.text, fault.effects) == (text, effects)
    assert type(fault).from_json(fault.to_json()) == fault


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"retval": -1}, "retval -1 is not between 0 and"),
        ({"retval": 2**63}, "is not between 0 and"),
        ({"retval": "1.5"}, "retval '1.5' is not a whole number"),
        ({"retval": "many"}, "retval 'many' is not a number"),
        ({"retval": True}, "retval True"),
        ({"retval": 0, "error": "EIO"}, "a call cannot both fail with EIO and return 0"),
        ({"placebo": True}, "has no effect: give one of delay_enter, error, retval, signal, delay_exit"),
    ],
)
def test_effects_that_exclude_each_other(arguments: dict, says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_fault("x86_64", "read", **arguments)
    assert says in str(refused.value)
