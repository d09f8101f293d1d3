"""Arguments of system calls that name a file."""

from __future__ import annotations

import pytest

from chaosorca.model.arguments import FileArgument, file_arguments, names_a_file
from chaosorca.model.syscall_table import syscall_classes, syscall_numbers

NO_FILE = {
    "returns a path and takes none": "getcwd",
    "takes a path or a descriptor only as one kind of value among many": "fsconfig",
    "returns a descriptor and takes none": """epoll_create epoll_create1 eventfd eventfd2 fanotify_init fsopen inotify_init
        inotify_init1 io_uring_setup landlock_create_ruleset memfd_create memfd_secret perf_event_open pidfd_open pipe pipe2
        timerfd_create userfaultfd""",
    "takes sets of descriptors": "poll ppoll select pselect6",
    "its descriptor only waits for events: an epoll, an inotify, a timer, signals, a ring": """epoll_wait epoll_pwait
        epoll_pwait2 inotify_rm_watch timerfd_gettime timerfd_settime signalfd signalfd4 io_uring_enter io_uring_register""",
    "its descriptor is a process": "pidfd_getfd pidfd_send_signal process_madvise process_mrelease",
    "its descriptor is a namespace or a process": "setns",
    "its descriptor is a file system that is being set up": "fsmount",
    "its descriptor is a set of rules": "landlock_add_rule landlock_restrict_self",
    "its name or descriptor is a message queue": "mq_open mq_getsetattr mq_notify mq_timedreceive mq_timedsend",
    "its descriptor is a BPF object": "bpf",
}


def test_the_table_agrees_with_straces_classes_except_for_listed_reasons() -> None:
    excepted = {name: why for why, names in NO_FILE.items() for name in names.split()}
    classes = syscall_classes()
    missing = {name for name in classes["file"] | classes["desc"] if not names_a_file(name)}
    assert missing == excepted.keys()


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_every_call_of_the_table_exists_with_at_most_six_arguments(arch: str) -> None:
    numbers = {**syscall_numbers("x86_64"), **syscall_numbers("aarch64")}
    listed = [name for name in numbers if names_a_file(name)]
    assert len([name for name in listed if name in syscall_numbers(arch)]) > 90
    for name in listed:
        arguments = file_arguments(name)
        used = [one for a in arguments for one in (a.index, a.directory, a.flags) if one is not None]
        assert all(0 <= index <= 5 for index in used)
        assert len(set(used)) == len(used)
        assert all(argument.is_path for argument in arguments if argument.directory is not None or argument.flags is not None)


@pytest.mark.parametrize(
    ("syscall", "arguments"),
    [
        ("open", [FileArgument(0, True)]),
        ("openat", [FileArgument(1, True, directory=0)]),
        ("openat2", [FileArgument(1, True, directory=0)]),
        ("lstat", [FileArgument(0, True, follows=False)]),
        ("newfstatat", [FileArgument(1, True, directory=0, flags=3)]),
        ("statx", [FileArgument(1, True, directory=0, flags=2)]),
        ("faccessat", [FileArgument(1, True, directory=0)]),  # the flags exist only in the C library
        ("faccessat2", [FileArgument(1, True, directory=0, flags=3)]),
        ("fchmodat2", [FileArgument(1, True, directory=0, flags=3)]),
        ("fchownat", [FileArgument(1, True, directory=0, flags=4)]),
        ("utimensat", [FileArgument(1, True, directory=0, flags=3)]),
        ("execve", [FileArgument(0, True)]),
        ("execveat", [FileArgument(1, True, directory=0, flags=4)]),
        ("unlinkat", [FileArgument(1, True, directory=0, follows=False)]),
        ("rename", [FileArgument(0, True, follows=False), FileArgument(1, True, follows=False)]),
        ("renameat2", [FileArgument(1, True, 0, follows=False), FileArgument(3, True, 2, follows=False)]),
        ("linkat", [FileArgument(1, True, 0, follows=False), FileArgument(3, True, 2, follows=False)]),
        ("symlink", [FileArgument(1, True, follows=False)]),  # the target need not exist
        ("symlinkat", [FileArgument(2, True, 1, follows=False)]),
        ("name_to_handle_at", [FileArgument(1, True, 0, follows=False)]),
        ("move_mount", [FileArgument(1, True, 0, follows=False), FileArgument(3, True, 2, follows=False)]),
        ("open_tree", [FileArgument(1, True, directory=0, flags=2)]),
        ("getxattrat", [FileArgument(1, True, directory=0, flags=2)]),
        ("file_getattr", [FileArgument(1, True, directory=0, flags=4)]),
        ("fanotify_mark", [FileArgument(4, True, directory=3)]),
        ("quotactl", [FileArgument(1, True)]),
        ("read", [FileArgument(0, False)]),
        ("mmap", [FileArgument(4, False)]),
        ("sendfile", [FileArgument(0, False), FileArgument(1, False)]),
        ("splice", [FileArgument(0, False), FileArgument(2, False)]),
        ("copy_file_range", [FileArgument(0, False), FileArgument(2, False)]),
        ("dup2", [FileArgument(0, False)]),  # its second descriptor is a number to assign
        ("epoll_ctl", [FileArgument(2, False)]),
        ("finit_module", [FileArgument(0, False)]),
        ("kexec_file_load", [FileArgument(0, False), FileArgument(1, False)]),
        ("getpid", []),
        ("connect", []),
        ("no_such_call", []),
    ],
)
def test_rows_agree_with_the_kernels_prototypes(syscall: str, arguments: list[FileArgument]) -> None:
    assert list(file_arguments(syscall)) == arguments
