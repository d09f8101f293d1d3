"""The arguments with which system calls refer to files, by path or by file descriptor.

The table `arguments.tsv` comes from the prototypes in the kernel's include/linux/syscalls.h. The prototypes are the same on x86-64
and arm64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

from chaosorca.model.errors import InvalidArgument


@dataclass(frozen=True)
class FileArgument:
    """An argument that refers to a file.

    Attributes:
        index: the position of the argument, counted from 0.
        is_path: whether the argument is a path. Otherwise the argument is a file descriptor.
        directory: the index of the directory descriptor against which a relative path is resolved; None for the working directory.
        follows: whether the call follows a symbolic link at the end of the path.
        flags: the index of the flags argument; None if the call has no flags. AT_SYMLINK_NOFOLLOW in the flags overrides `follows`.
    """

    index: int
    is_path: bool
    directory: int | None = None
    follows: bool = True
    flags: int | None = None


@cache
def file_arguments(syscall: str) -> tuple[FileArgument, ...]:
    """Return the file arguments of a system call. Most system calls have no file argument."""
    return tuple(_parse(part) for part in _rows().get(syscall, "").split())


def names_a_file(syscall: str) -> bool:
    """Return whether a system call has an argument that names a file."""
    return bool(file_arguments(syscall))


@cache
def _rows() -> dict[str, str]:
    _header, *lines = resources.files("chaosorca.model").joinpath("arguments.tsv").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t", 1) for line in lines)


def _parse(text: str) -> FileArgument:
    kind, _, rest = text.partition(":")
    if kind not in ("fd", "path", "link"):
        raise InvalidArgument(f"arguments.tsv has the kind {kind!r}, which is not fd, path or link")
    rest, _, flags = rest.partition("!")
    index, _, directory = rest.partition("@")
    return FileArgument(
        int(index), kind != "fd", int(directory) if directory else None, kind != "link", int(flags) if flags else None
    )
