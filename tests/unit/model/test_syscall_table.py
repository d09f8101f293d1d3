"""The table of system calls."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from chaosorca.model.errors import InvalidArgument
from chaosorca.model.syscall_table import check_any_syscall, check_syscall, machine, syscall_names, syscall_numbers

ARCHS = ["x86_64", "aarch64"]


@pytest.mark.parametrize(
    ("name", "x86_64", "aarch64"),
    [
        ("read", 0, 63),
        ("write", 1, 64),
        ("open", 2, None),
        ("close", 3, 57),
        ("fork", 57, None),
        ("execve", 59, 221),
        ("exit", 60, 93),
        ("exit_group", 231, 94),
        ("rt_sigreturn", 15, 139),
        ("openat", 257, 56),
        ("epoll_ctl", 233, 21),
        ("epoll_wait", 232, None),
        ("epoll_pwait", 281, 22),
        ("accept4", 288, 242),
        ("newfstatat", 262, 79),
        ("sendfile", 40, 71),
        ("futex", 202, 98),
        ("clone3", 435, 435),
        ("openat2", 437, 437),
        ("cachestat", 451, 451),
    ],
)
def test_a_system_call_has_the_kernels_number(name: str, x86_64: int | None, aarch64: int | None) -> None:
    assert syscall_numbers("x86_64").get(name) == x86_64
    assert syscall_numbers("aarch64").get(name) == aarch64


@pytest.mark.parametrize("arch", ARCHS)
def test_names_and_numbers_are_unique(arch: str) -> None:
    rows = resources.files("chaosorca.model").joinpath("syscalls.tsv").read_text().splitlines()[1:]
    listed = [row.split("\t")[0] for row in rows]
    assert len(listed) == len(set(listed))
    assert len(syscall_names(arch)) == len(syscall_numbers(arch)) > 300
    assert {syscall_names(arch)[number]: number for number in syscall_names(arch)} == syscall_numbers(arch)


@pytest.mark.parametrize("arch", ARCHS)
def test_names_and_numbers_are_sane(arch: str) -> None:
    assert [name for name in syscall_numbers(arch) if not re.fullmatch(r"_?[a-z][a-z0-9_]*", name)] == []
    assert [number for number in syscall_names(arch) if not 0 <= number < 512] == []


@pytest.mark.parametrize(
    ("name", "arch"), [("openat", "x86_64"), ("openat", "aarch64"), ("open", "x86_64"), ("sendfile", "x86_64")]
)
def test_an_existing_system_call_is_accepted(name: str, arch: str) -> None:
    assert check_syscall(name, arch) == name


@pytest.mark.parametrize(
    ("name", "arch", "says"),
    [
        ("sendfile64", "x86_64", "did you mean 'sendfile'"),
        ("opennat", "x86_64", "did you mean 'openat'"),
        ("opennat", "aarch64", "did you mean 'openat'"),
        ("open", "aarch64", "exists on x86_64 but not on aarch64: programs there call 'openat' instead"),
        ("stat", "aarch64", "programs there call 'newfstatat' instead"),
        ("fork", "aarch64", "programs there call 'clone' instead"),
        ("vfork", "aarch64", "programs there call 'clone' instead"),
        ("select", "aarch64", "programs there call 'pselect6' instead"),
        ("poll", "aarch64", "programs there call 'ppoll' instead"),
        ("epoll_wait", "aarch64", "but not on aarch64: did you mean 'epoll_pwait'"),
        ("", "x86_64", "does not exist on x86_64"),
        ("name", "x86_64", "does not exist on x86_64"),
        ("257", "x86_64", "does not exist on x86_64"),
        ("%file", "x86_64", "does not exist on x86_64"),
        ("qqqqqq", "x86_64", "does not exist on x86_64"),
    ],
)
def test_a_missing_system_call_is_refused_with_a_hint(name: str, arch: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(says)) as caught:
        check_syscall(name, arch)
    assert str(caught.value).startswith(f"system call {name!r} ")


@pytest.mark.parametrize(
    ("given", "arch"), [("x86_64", "x86_64"), ("amd64", "x86_64"), ("aarch64", "aarch64"), ("arm64", "aarch64")]
)
def test_a_machine_has_one_name(given: str, arch: str) -> None:
    assert machine(given) == arch


@pytest.mark.parametrize("given", ["", "i386", "i686", "armv7l", "arm", "riscv64", "s390x", "AMD64"])
def test_another_machine_is_refused(given: str) -> None:
    with pytest.raises(InvalidArgument, match=f"architecture {given!r} is not supported"):
        machine(given)


@pytest.mark.parametrize("name", ["open", "openat", "epoll_wait", "cachestat"])
def test_a_query_accepts_a_name_of_either_architecture(name: str) -> None:
    assert check_any_syscall(name) == name


def test_a_query_refuses_a_name_of_no_architecture() -> None:
    with pytest.raises(InvalidArgument, match=r"system call 'opennat' does not exist: did you mean 'openat'"):
        check_any_syscall("opennat")
