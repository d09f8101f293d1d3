"""The system calls of Linux by name and number, for x86-64 and arm64.

The table `syscalls.tsv` was made from arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

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


@cache
def syscall_numbers(arch: str) -> dict[str, int]:
    """Return the number of each system call that exists on an architecture (`x86_64` or `aarch64`)."""
    lines = resources.files("chaosorca.model").joinpath("syscalls.tsv").read_text().splitlines()
    column = lines[0].split("\t").index(arch)
    rows = (line.split("\t") for line in lines[1:])
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


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
