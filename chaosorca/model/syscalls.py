"""The system calls of Linux by name and number, for x86-64 and arm64.

The table `syscalls.tsv` was made from arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h; its classes are
those that strace 6.1 has for them (strace(1), "Filtering"), as it shows them itself for each call.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources

from chaosorca.model.errors import InvalidArgument
from chaosorca.model.nearest import nearest

_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
_NEVER_BY_NAME = {"open": "openat", "stat": "newfstatat", "fork": "clone", "vfork": "clone", "select": "pselect6", "poll": "ppoll"}


def machine(name: str) -> str:
    """Return `x86_64` or `aarch64` for a machine's name as `uname -m` or the Docker Engine gives it.

    Raises:
        InvalidArgument: another architecture.
    """
    if name not in _MACHINES:
        raise InvalidArgument(f"the Docker host's architecture {name!r} is not supported: x86-64 and arm64 are")
    return _MACHINES[name]


_FAMILIES = {
    "open*": ("open", "openat", "openat2", "creat"),
    "stat*": ("stat", "lstat", "fstat", "newfstatat", "statx"),
    "read*": ("read", "pread64", "readv", "preadv", "preadv2"),
    "write*": ("write", "pwrite64", "writev", "pwritev", "pwritev2"),
    "fork*": ("fork", "vfork", "clone", "clone3"),
}
"""Families whose members do one thing in several ways; any other `name*` is what begins so."""


_VDSO = {
    "x86_64": {"clock_gettime", "clock_getres", "gettimeofday", "time", "getcpu"},
    "aarch64": {"clock_gettime", "clock_getres", "gettimeofday"},
}
"""What the kernel lets programs do without a system call: vdso(7)."""


def answered_by_vdso(syscalls: Iterable[str], arch: str) -> list[str]:
    """Return those system calls that programs hardly ever make, because the vDSO answers them."""
    return [name for name in syscalls if name in _VDSO[arch]]


def siblings(syscall: str) -> tuple[str, ...]:
    """Return the other system calls that do what one does, in another way."""
    return tuple(name for members in _FAMILIES.values() if syscall in members for name in members if name != syscall)


@cache
def syscall_numbers(arch: str) -> dict[str, int]:
    """Return the number of each system call that exists on an architecture (`x86_64` or `aarch64`)."""
    return {row["name"]: int(row[arch]) for row in _rows() if row[arch] != "-"}


@cache
def syscall_classes() -> dict[str, frozenset[str]]:
    """Return the system calls of each of strace's classes (`file`, `network`, …)."""
    classes: dict[str, set[str]] = {}
    for row in _rows():
        for name in row["classes"].split(","):
            if name != "-":
                classes.setdefault(name, set()).add(row["name"])
    return {name: frozenset(members) for name, members in classes.items()}


@cache
def _rows() -> tuple[dict[str, str], ...]:
    header, *lines = resources.files("chaosorca.model").joinpath("syscalls.tsv").read_text().splitlines()
    names = header.split("\t")
    return tuple(dict(zip(names, line.split("\t"), strict=True)) for line in lines)


def expand_syscalls(text: object, arch: str) -> tuple[str, ...]:
    """Return the system calls that a text means: names, families (`open*`) and classes (`%file`), separated by commas.

    Members of a family or class that an architecture does not have are left out.

    Raises:
        InvalidArgument: a part means nothing, or nothing on this architecture.
    """
    return tuple(dict.fromkeys(name for part in split_syscalls(text) for name in _expand(part, arch)))


def split_syscalls(text: object) -> list[str]:
    """Return the parts of a text that names system calls.

    Raises:
        InvalidArgument: it names none.
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
            f"syscall {part!r} means no system call of {arch}: name one, or one of the classes {_listed(syscall_classes())}"
        )
    return members


def _listed(classes: Iterable[str]) -> str:
    return ", ".join(f"%{name}" for name in sorted(classes))


@cache
def syscall_names(arch: str) -> dict[int, str]:
    """Return the name of each system call number of an architecture."""
    return {number: name for name, number in syscall_numbers(arch).items()}


def check_syscall(name: str, arch: str) -> str:
    """Return the name of a system call that can be made on an architecture.

    Raises:
        InvalidArgument: no such system call, or none there; the sentence offers the nearest names.
    """
    known = syscall_numbers(arch)
    if name in known:
        return name
    other = next((a for a in sorted(set(_MACHINES.values())) if name in syscall_numbers(a)), None)
    if other:
        instead = _NEVER_BY_NAME.get(name)
        hint = f": programs there make {instead!r} instead" if instead in known else nearest(name, known)
        raise InvalidArgument(f"system call {name!r} exists on {other} but can never be made on {arch}{hint}")
    raise InvalidArgument(f"system call {name!r} does not exist on {arch}{nearest(name, known)}")


def check_known(name: str) -> str:
    """Return the name of a system call that exists on some architecture: enough to ask for what was measured.

    Raises:
        InvalidArgument: no such system call; the sentence offers the nearest names.
    """
    if not isinstance(name, str):
        raise InvalidArgument(f"syscall {name!r} is no name of a system call")
    known = {one for arch in set(_MACHINES.values()) for one in syscall_numbers(arch)}
    if name not in known:
        raise InvalidArgument(f"system call {name!r} does not exist{nearest(name, sorted(known))}")
    return name
