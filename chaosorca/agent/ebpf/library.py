"""The functions of libbpf that the agent calls, and the warnings of libbpf."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from chaosorca.model.errors import AgentError

_LIBRARY = "libbpf.so.1"
_LEVEL_WARNING = 0
_MAX_MESSAGES = 8

_POINTER, _INT, _UNSIGNED, _TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_char_p
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "libbpf_num_possible_cpus": (_INT, []),
    "bpf_object__open_file": (_POINTER, [_TEXT, _POINTER]),
    "bpf_object__load": (_INT, [_POINTER]),
    "bpf_object__close": (None, [_POINTER]),
    "bpf_object__btf": (_POINTER, [_POINTER]),
    "bpf_object__next_program": (_POINTER, [_POINTER, _POINTER]),
    "bpf_object__next_map": (_POINTER, [_POINTER, _POINTER]),
    "bpf_object__find_map_by_name": (_POINTER, [_POINTER, _TEXT]),
    "bpf_object__find_program_by_name": (_POINTER, [_POINTER, _TEXT]),
    "bpf_program__section_name": (_TEXT, [_POINTER]),
    "bpf_program__name": (_TEXT, [_POINTER]),
    "bpf_program__fd": (_INT, [_POINTER]),
    "bpf_program__set_expected_attach_type": (_INT, [_POINTER, _INT]),
    "bpf_program__attach": (_POINTER, [_POINTER]),
    "bpf_program__attach_uprobe_opts": (_POINTER, [_POINTER, _INT, _TEXT, ctypes.c_size_t, _POINTER]),
    "bpf_link__destroy": (_INT, [_POINTER]),
    "bpf_map__name": (_TEXT, [_POINTER]),
    "bpf_map__fd": (_INT, [_POINTER]),
    "bpf_map__type": (_INT, [_POINTER]),
    "bpf_map__key_size": (_UNSIGNED, [_POINTER]),
    "bpf_map__value_size": (_UNSIGNED, [_POINTER]),
    "bpf_map__max_entries": (_UNSIGNED, [_POINTER]),
    "bpf_map__is_internal": (ctypes.c_bool, [_POINTER]),
    "bpf_map__set_max_entries": (_INT, [_POINTER, _UNSIGNED]),
    "bpf_map__reuse_fd": (_INT, [_POINTER, _INT]),
    "bpf_map__initial_value": (_POINTER, [_POINTER, _POINTER]),
    "bpf_map_lookup_elem": (_INT, [_INT, _POINTER, _POINTER]),
    "bpf_map_update_elem": (_INT, [_INT, _POINTER, _POINTER, ctypes.c_uint64]),
    "bpf_map_delete_elem": (_INT, [_INT, _POINTER]),
    "bpf_map_get_next_key": (_INT, [_INT, _POINTER, _POINTER]),
    "bpf_map_lookup_batch": (_INT, [_INT, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER]),
    "bpf_prog_test_run_opts": (_INT, [_INT, _POINTER]),
    "btf__find_by_name_kind": (_INT, [_POINTER, _TEXT, _UNSIGNED]),
    "btf__type_by_id": (_POINTER, [_POINTER, _UNSIGNED]),
    "btf__name_by_offset": (_TEXT, [_POINTER, _UNSIGNED]),
}

_loading = threading.Lock()  # guards `_messages`: libbpf reports for the whole process, so one program is loaded at a time
_messages: deque[str] = deque(maxlen=_MAX_MESSAGES)


class UprobeOptions(ctypes.Structure):
    """`struct bpf_uprobe_opts`."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("ref_ctr_offset", ctypes.c_size_t),
        ("bpf_cookie", ctypes.c_uint64),
        ("retprobe", ctypes.c_bool),
        ("func_name", ctypes.c_char_p),
    )


class RunOptions(ctypes.Structure):
    """`struct bpf_test_run_opts`."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_char_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


@functools.cache
def libbpf() -> Any:
    """Load the library, declare the types of its functions, and return it.

    Raises:
        AgentError: the library is not installed.
    """
    try:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError as error:
        raise AgentError(f"{_LIBRARY} cannot be loaded ({error}): use the agent's image, which has it") from error
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.libbpf_set_print.restype = _POINTER
    library.libbpf_set_print(_PRINT)
    return library


@contextlib.contextmanager
def messages() -> Iterator[Sequence[str]]:
    """Collect the latest warnings of libbpf during the `with` block. Only one caller collects at a time."""
    with _loading:
        _messages.clear()
        yield _messages


def possible_processors() -> int:
    """Return the number of values that a per-CPU map keeps for each key."""
    return check(libbpf().libbpf_num_possible_cpus())


def check(result: int) -> int:
    """Check the result of a function of libbpf, and return it.

    Raises:
        OSError: the result is a negative error number.
    """
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def exists(result: int) -> bool:
    """Return whether a look-up in a map has found an entry.

    Raises:
        OSError: the result is an error other than ENOENT.
    """
    if result == -errno.ENOENT:
        return False
    check(result)
    return True


def pointer(result: int | None) -> int:
    """Check the pointer that a function of libbpf has returned, and return it.

    Raises:
        OSError: the result is a null pointer.
    """
    if not result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _print(level: int, format_: int, arguments: int) -> int:
    """Keep warnings instead of writing them to stderr."""
    if level == _LEVEL_WARNING:
        libc, text = ctypes.CDLL(None), ctypes.c_void_p()
        if libc.vasprintf(ctypes.byref(text), ctypes.c_void_p(format_), ctypes.c_void_p(arguments)) >= 0 and text.value:
            message = ctypes.string_at(text).decode(errors="replace")
            _messages.extend(line.removeprefix("libbpf: ").strip() for line in message.splitlines() if line.strip())
            libc.free(text)
    return 0


_PRINT = ctypes.CFUNCTYPE(_INT, _INT, _POINTER, _POINTER)(_print)  # referenced here, since libbpf calls it until the process ends
