"""The system calls of Linux by name and number, for x86-64 and arm64.

The table `syscalls.tsv` comes from arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h. The classes of
each system call are the ones that strace 6.1 reports (see strace(1), "Filtering").
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources

from chaosorca.model.errors import InvalidArgument
from chaosorca.model.nearest import nearest

_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
_INSTEAD = {"open": "openat", "stat": "newfstatat", "fork": "clone", "vfork": "clone", "select": "pselect6", "poll": "ppoll"}


def machine(name: str) -> str:
    """Convert an architecture's name from `uname -m` or the Docker Engine to `x86_64` or `aarch64`.

    Raises:
        InvalidArgument: the architecture is not supported.
    """
    if name not in _MACHINES:
        raise InvalidArgument(f"the Docker host's architecture {name!r} is not supported: use a host with x86-64 or arm64")
    return _MACHINES[name]


_FAMILIES = {
    "open*": ("open", "openat", "openat2", "creat"),
    "stat*": ("stat", "lstat", "fstat", "newfstatat", "statx"),
    "read*": ("read", "pread64", "readv", "preadv", "preadv2"),
    "write*": ("write", "pwrite64", "writev", "pwritev", "pwritev2"),
    "fork*": ("fork", "vfork", "clone", "clone3"),
}
"""Families of system calls that do the same thing in different ways. Any other `name*` matches all names that begin with `name`."""


_VDSO = {
    "x86_64": {"clock_gettime", "clock_getres", "gettimeofday", "time", "getcpu"},
    "aarch64": {"clock_gettime", "clock_getres", "gettimeofday"},
}
"""Functions of the vDSO, which do not enter the kernel (vdso(7)). Each function has a system call of the same name."""


def answered_by_vdso(syscalls: Iterable[str], arch: str) -> list[str]:
    """Return the given system calls that the vDSO answers. Programs call the vDSO instead, so these system calls are rare."""
    return [name for name in syscalls if name in _VDSO[arch]]


def siblings(syscall: str) -> tuple[str, ...]:
    """Return the other system calls of the same family."""
    return tuple(name for members in _FAMILIES.values() if syscall in members for name in members if name != syscall)


@cache
def syscall_numbers(arch: str) -> dict[str, int]:
    """Return the numbers of an architecture's system calls by name. The architecture is `x86_64` or `aarch64`."""
    return {row["name"]: int(row[arch]) for row in _rows() if row[arch] != "-"}


@cache
def syscall_classes() -> dict[str, frozenset[str]]:
    """Return the system calls in each of strace's classes (`file`, `network`, …)."""
    classes: dict[str, set[str]] = {}
    for row in _rows():
        for name in row["classes"].split(","):
            if name != "-":
                classes.setdefault(name, set()).add(row["name"])
    return {name: frozenset(members) for name, members in classes.items()}


@cache
def _rows() -> tuple[dict[str, str], ...]:
    header, *lines = resources.files("chaosorca.model").joinpath("syscalls.tsv").read_text(encoding="utf-8").splitlines()
    names = header.split("\t")
    return tuple(dict(zip(names, line.split("\t"), strict=True)) for line in lines)


def expand_syscalls(text: object, arch: str) -> tuple[str, ...]:
    """Return the system calls that a text selects by names, families (`open*`) and classes (`%file`), separated by commas.

    If the architecture lacks a member of a family or class, that member is left out.

    Raises:
        InvalidArgument: a part matches no system call of this architecture.
    """
    return tuple(dict.fromkeys(name for part in split_syscalls(text) for name in _expand(part, arch)))


def split_syscalls(text: object) -> list[str]:
    """Split a selection of system calls into its parts, which are separated by commas.

    Raises:
        InvalidArgument: the text is empty or has an empty part.
    """
    parts = [part.strip() for part in text.split(",")] if isinstance(text, str) else []
    if not parts or not all(parts):
        raise InvalidArgument(
            f"syscall {text!r} names no system call: give one, or several as in 'openat,read', 'open*' or '%file'"
        )
    return parts


def _expand(part: str, arch: str) -> list[str]:
    numbers = syscall_numbers(arch)
    if part.startswith("%"):
        classes = syscall_classes()
        if part[1:] not in classes:
            raise InvalidArgument(
                f"class {part!r} of system calls does not exist{nearest(part[1:], classes)} (there are {_listed(classes)})"
            )
        members = sorted(classes[part[1:]] & numbers.keys(), key=numbers.__getitem__)
    elif part.endswith("*"):
        members = [name for name in _FAMILIES.get(part) or sorted(numbers) if name in numbers]
        if part not in _FAMILIES:
            members = [name for name in members if name.startswith(part[:-1])] if len(part) > 1 else []
    else:
        return [check_syscall(part, arch)]
    if not members:
        raise InvalidArgument(
            f"syscall {part!r} matches no system call of {arch}: name one, or one of the classes {_listed(syscall_classes())}"
        )
    return members


def _listed(classes: Iterable[str]) -> str:
    return ", ".join(f"%{name}" for name in sorted(classes))


@cache
def syscall_names(arch: str) -> dict[int, str]:
    """Return the names of an architecture's system calls by number."""
    return {number: name for name, number in syscall_numbers(arch).items()}


def check_syscall(name: str, arch: str) -> str:
    """Check that an architecture has a system call, and return its name.

    Raises:
        InvalidArgument: the architecture has no such system call. The message suggests the nearest names.
    """
    numbers = syscall_numbers(arch)
    if name in numbers:
        return name
    other = next((a for a in sorted(set(_MACHINES.values())) if name in syscall_numbers(a)), None)
    if other:
        instead = _INSTEAD.get(name)
        hint = f": programs there call {instead!r} instead" if instead in numbers else nearest(name, numbers)
        raise InvalidArgument(f"system call {name!r} exists on {other} but not on {arch}{hint}")
    raise InvalidArgument(f"system call {name!r} does not exist on {arch}{nearest(name, numbers)}")


def check_any_syscall(name: str) -> str:
    """Check that at least one architecture has a system call, and return its name.

    Queries of measurements use this check, because the measurements may come from any architecture.

    Raises:
        InvalidArgument: there is no such system call. The message suggests the nearest names.
    """
    if not isinstance(name, str):
        raise InvalidArgument(f"syscall {name!r} is not the name of a system call: write it as in 'openat'")
    names = {one for arch in set(_MACHINES.values()) for one in syscall_numbers(arch)}
    if name not in names:
        raise InvalidArgument(f"system call {name!r} does not exist{nearest(name, sorted(names))}")
    return name
