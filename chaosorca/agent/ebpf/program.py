"""As much of libbpf as the agent needs: programs that were compiled with its image, their constants, and their maps."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from chaosorca.agent.ebpf.layout import Layout, PerCpuLayout
from chaosorca.model.contract import PROGRAMS
from chaosorca.model.errors import AgentError

_LIBRARY = "libbpf.so.1"
_CONSTANTS = ".rodata"
_KEPT_LINES = 8
_WARNING = 0
_DATA_SECTION = 15
_BTF_TYPE = struct.Struct("=III")  # name, kind and number of members, size; see the kernel's Documentation/bpf/btf.rst
_BTF_VARIABLE = struct.Struct("=III")  # type, offset, size
_PER_CPU_MAPS = (5, 6, 10)  # hash, array, LRU hash
_ARRAYS = (2, 3, 6)  # array, array of programs, per-CPU array
_BATCH = 1024
_BATCH_BYTES = 1 << 20
_NO_BATCHES = (errno.EINVAL, errno.EOPNOTSUPP, 524)  # 524: ENOTSUPP, which is the kernel's own

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

_loading = threading.Lock()  # what libbpf says is said for the whole process
_said: deque[str] = deque(maxlen=_KEPT_LINES)


class _UprobeOptions(ctypes.Structure):
    """`struct bpf_uprobe_opts`."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("ref_ctr_offset", ctypes.c_size_t),
        ("bpf_cookie", ctypes.c_uint64),
        ("retprobe", ctypes.c_bool),
        ("func_name", ctypes.c_char_p),
    )


class _RunOptions(ctypes.Structure):
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


class Program:
    """One object file, loaded: its functions, its maps, and the tracepoints that it is attached to, until `close`."""

    def __init__(
        self,
        name: str,
        layouts: Mapping[str, tuple[str, str]],
        constants: Mapping[str, int] | None = None,
        attach_types: Mapping[str, int] | None = None,
        maps_of: Program | None = None,
        directory: Path = PROGRAMS,
        capacities: Mapping[str, int] | None = None,
        later: Collection[str] = (),
    ) -> None:
        """Load `NAME.o`, and attach what is in sections `raw_tp/...`.

        Arguments:
            layouts: of the maps' keys and values, as `Layout` takes them; where each processor has a value of its own, that of one.
            constants: values of its `const volatile` variables; the others are 0.
            attach_types: the kernel's number of the expected attach type, for functions whose section does not tell.
            maps_of: its maps take the place of those that have the same names here.
            directory: where `NAME.o` is.
            capacities: how many entries maps have, where that is not to be what the source says.
            later: functions that are attached by `attach` only.

        Raises:
            AgentError: the kernel, or libbpf, does not take it; the sentence says why.
        """
        self.name = name
        self._links: list[int] = []
        self._object: int | None = None
        library = _library()
        with _loading:
            _said.clear()
            try:
                self._object = _pointer(library.bpf_object__open_file(os.fsencode(directory / f"{name}.o"), None))
                self._set_constants(constants or {})
                for function, attach_type in (attach_types or {}).items():
                    _check(library.bpf_program__set_expected_attach_type(self._function(function), attach_type))
                if maps_of is not None:
                    self._take_maps(maps_of)
                for map_name, capacity in (capacities or {}).items():
                    _check(library.bpf_map__set_max_entries(self._map(map_name), capacity))
                _check(library.bpf_object__load(self._object))
                self._tables = {map_name: self._table(map_name, *layout) for map_name, layout in layouts.items()}
                self._attach_all(later)
            except OSError as error:
                self.close()
                said = " (libbpf: {})".format(" | ".join(_said)) if _said else ""
                raise AgentError(f"the kernel does not take the program {name!r}: {error.strerror}{said}") from error
            except BaseException:
                self.close()
                raise

    def fd(self, function: str) -> int:
        """The descriptor of a function."""
        return _check(_library().bpf_program__fd(self._function(function)))

    def __getitem__(self, name: str) -> Table:
        """A map."""
        return self._tables[name]

    def run(self, function: str, context: bytes) -> bytes:
        """Run a function of section `syscall` now; return what it has made of its context.

        Raises:
            OSError: the kernel refuses it.
        """
        changed = ctypes.create_string_buffer(context, len(context))
        options = _RunOptions(sz=ctypes.sizeof(_RunOptions), ctx_in=ctypes.addressof(changed), ctx_size_in=len(context))
        _check(_library().bpf_prog_test_run_opts(self.fd(function), ctypes.byref(options)))
        return changed.raw

    def entries_in_use(self) -> dict[str, int]:
        """How many entries each map has that can be full."""
        return {name: len(table) for name, table in self._tables.items() if not table.is_array}

    def dropped(self) -> int:
        """How often a map was found full; see `DROPS` in bpf/common.h."""
        return int(self["dropped"].get(0))

    def attach(self, function: str) -> int:
        """Attach a function where its section says; return what `detach` takes.

        Raises:
            OSError: the kernel refuses it.
        """
        return _pointer(_library().bpf_program__attach(self._function(function)))

    def attach_uprobe(self, function: str, path: str, offset: int, cookie: int, at_return: bool = False) -> int:
        """Put a function on an instruction of a file; return what `detach` takes.

        Arguments:
            at_return: the instruction begins a function, and ours is run when that returns.

        Raises:
            OSError: the kernel refuses it.
        """
        options = _UprobeOptions(sz=ctypes.sizeof(_UprobeOptions), bpf_cookie=cookie, retprobe=at_return)
        library = _library()
        return _pointer(
            library.bpf_program__attach_uprobe_opts(self._function(function), -1, os.fsencode(path), offset, ctypes.byref(options))
        )

    @staticmethod
    def detach(link: int) -> None:
        """Take away what was attached."""
        _library().bpf_link__destroy(link)

    def close(self) -> None:
        """Detach and unload it."""
        for link in self._links:
            self.detach(link)
        self._links = []
        if self._object is not None:
            _library().bpf_object__close(self._object)
        self._object = None

    def _function(self, name: str) -> int:
        return _pointer(_library().bpf_object__find_program_by_name(self._object, name.encode()))

    def _map(self, name: str) -> int:
        return _pointer(_library().bpf_object__find_map_by_name(self._object, name.encode()))

    def _table(self, name: str, key: str, value: str) -> Table:
        library = _library()
        found = self._map(name)
        sizes = (library.bpf_map__key_size(found), library.bpf_map__value_size(found))
        if sizes != (wanted := (Layout(key).size, Layout(value).size)):
            raise ValueError(f"map {name!r} of {self.name!r} has keys and values of {sizes} bytes, not of {wanted}")
        kind = library.bpf_map__type(found)
        per_cpu = kind in _PER_CPU_MAPS
        values = PerCpuLayout(value, possible_processors()) if per_cpu else Layout(value)
        most = library.bpf_map__max_entries(found)
        return Table(library.bpf_map__fd(found), Layout(key), values, most, kind in _ARRAYS, name)

    def _set_constants(self, values: Mapping[str, int]) -> None:
        if not values:
            return
        library = _library()
        places = self._constants()
        begin = _pointer(library.bpf_map__initial_value(self._map(_CONSTANTS), ctypes.byref(ctypes.c_size_t())))
        for name, value in values.items():
            if name not in places:
                raise ValueError(f"the program {self.name!r} has no constant {name!r}")
            offset, size = places[name]
            ctypes.memmove(begin + offset, value.to_bytes(size, "little", signed=value < 0), size)

    def _constants(self) -> dict[str, tuple[int, int]]:
        """Where in their section the constants are, and of how many bytes, by name."""
        library = _library()
        types = _pointer(library.bpf_object__btf(self._object))
        section = _pointer(library.btf__type_by_id(types, _check(library.btf__find_by_name_kind(types, b".rodata", _DATA_SECTION))))
        _, info, _ = _BTF_TYPE.unpack(ctypes.string_at(section, _BTF_TYPE.size))
        count = info & 0xFFFF
        members = ctypes.string_at(section + _BTF_TYPE.size, count * _BTF_VARIABLE.size)
        places = {}
        for variable, offset, size in _BTF_VARIABLE.iter_unpack(members):
            name, *_ = _BTF_TYPE.unpack(ctypes.string_at(_pointer(library.btf__type_by_id(types, variable)), _BTF_TYPE.size))
            places[library.btf__name_by_offset(types, name).decode()] = (offset, size)
        return places

    def _take_maps(self, other: Program) -> None:
        library = _library()
        one = None
        while one := library.bpf_object__next_map(self._object, one):
            if not library.bpf_map__is_internal(one):
                theirs = library.bpf_object__find_map_by_name(other._object, library.bpf_map__name(one))
                if theirs:
                    _check(library.bpf_map__reuse_fd(one, library.bpf_map__fd(theirs)))

    def _attach_all(self, but: Collection[str]) -> None:
        library = _library()
        one = None
        while one := library.bpf_object__next_program(self._object, one):
            is_left = library.bpf_program__name(one).decode() in but
            if library.bpf_program__section_name(one).startswith(b"raw_tp/") and not is_left:
                self._links.append(_pointer(library.bpf_program__attach(one)))


class Table:
    """A map. Its keys and values are numbers or tuples of numbers, or lists of these: one for each possible processor."""

    def __init__(self, fd: int, key: Layout, value: Layout, most: int, is_array: bool = False, name: str = "") -> None:
        self.is_array = is_array
        self._name = name
        self._fd = fd
        self._most = most
        self._key = key
        self._value = value

    def id(self) -> int | None:
        """The number by which another process may open it (bpf(2), BPF_MAP_GET_FD_BY_ID)."""
        text = Path(f"/proc/self/fdinfo/{self._fd}").read_text()
        return next((int(line.split(":")[1]) for line in text.splitlines() if line.startswith("map_id:")), None)

    def get(self, key: Any) -> Any:
        """The value of a key; None if it has none."""
        value = ctypes.create_string_buffer(self._value.size)
        found = _is_there(_library().bpf_map_lookup_elem(self._fd, self._key.pack(key), value))
        return self._value.unpack(value.raw) if found else None

    def put(self, key: Any, value: Any) -> None:
        """Give a key a value.

        Raises:
            AgentError: there is no room for it.
        """
        result = _library().bpf_map_update_elem(self._fd, self._key.pack(key), self._value.pack(value), 0)
        if result == -errno.E2BIG:
            raise AgentError(
                f"the kernel's map {self._name!r} is full with {self._most} entries: "
                "stop the monitoring of another container, or another fault, first"
            )
        _check(result)

    def delete(self, key: Any) -> bool:
        """Take a key away; return whether it was there."""
        return _is_there(_library().bpf_map_delete_elem(self._fd, self._key.pack(key)))

    def entries(self) -> list[tuple[Any, Any]]:
        """All keys and their values; what is put or deleted meanwhile may be among them or not."""
        try:
            return self._entries_in_batches()
        except OSError as error:
            if error.errno not in _NO_BATCHES:
                raise
            return self._entries_one_by_one()

    def delete_those(self, chosen: Callable[[Any], bool]) -> None:
        """Take away all keys for which a function is true. Values stay in the kernel."""
        for key in self._keys():
            if chosen(key):
                self.delete(key)

    def __len__(self) -> int:
        try:
            return sum(count for count, _, _ in self._batches())
        except OSError as error:
            if error.errno not in _NO_BATCHES:
                raise
            return len(self._keys())

    def _entries_in_batches(self) -> list[tuple[Any, Any]]:
        found: list[tuple[Any, Any]] = []
        for count, keys, values in self._batches():
            found += zip(
                self._key.unpack_all(ctypes.string_at(keys, count * self._key.size)),
                self._value.unpack_all(ctypes.string_at(values, count * self._value.size)),
                strict=True,
            )
        return found

    def _batches(self) -> Iterator[tuple[int, Any, Any]]:
        """How many entries there are in each batch, and the memory that has their keys and values until the next."""
        size, begun, ended = max(64, min(_BATCH, _BATCH_BYTES // self._value.size)), False, False
        place = ctypes.create_string_buffer(max(8, self._key.size))
        keys, values = self._buffers(size)
        while not ended:
            count = ctypes.c_uint32(size)
            result = _library().bpf_map_lookup_batch(
                self._fd, place if begun else None, place, keys, values, ctypes.byref(count), None
            )
            if result == -errno.ENOSPC:  # entries that can only be read together are more than that
                size *= 2
                keys, values = self._buffers(size)
                continue
            ended = not _is_there(result)
            begun = True
            yield count.value, keys, values

    def _buffers(self, size: int) -> tuple[Any, Any]:
        return ctypes.create_string_buffer(size * self._key.size), ctypes.create_string_buffer(size * self._value.size)

    def _entries_one_by_one(self) -> list[tuple[Any, Any]]:
        entries = [(key, self.get(key)) for key in self._keys()]
        return [(key, value) for key, value in entries if value is not None]

    def _keys(self) -> list[Any]:
        """All keys. The kernel begins again where the last one that it told is gone: more than twice round would be in vain."""
        keys: dict[bytes, None] = {}
        last = None
        following = ctypes.create_string_buffer(self._key.size)
        for _ in range(2 * self._most):
            if not _is_there(_library().bpf_map_get_next_key(self._fd, last, following)):
                break
            last = following.raw
            keys[last] = None
        return [self._key.unpack(key) for key in keys]


def possible_processors() -> int:
    """For how many processors a map keeps values where each has its own."""
    return _check(_library().libbpf_num_possible_cpus())


@functools.cache
def _library() -> Any:
    try:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError as error:
        raise AgentError(f"{_LIBRARY} is not to be had ({error}): the agent's image has it") from error
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.libbpf_set_print.restype = _POINTER
    library.libbpf_set_print(_KEEP)
    return library


def _keep(level: int, format_: int, arguments: int) -> int:
    """Keep the last lines that libbpf says, and have it write none."""
    if level == _WARNING:
        libc, text = ctypes.CDLL(None), ctypes.c_void_p()
        if libc.vasprintf(ctypes.byref(text), ctypes.c_void_p(format_), ctypes.c_void_p(arguments)) >= 0 and text.value:
            said = ctypes.string_at(text).decode(errors="replace")
            _said.extend(line.removeprefix("libbpf: ").strip() for line in said.splitlines() if line.strip())
            libc.free(text)
    return 0


_KEEP = ctypes.CFUNCTYPE(_INT, _INT, _POINTER, _POINTER)(_keep)  # called by libbpf as long as the process lives


def _check(result: int) -> int:
    """Return what is no error of libbpf's: a number not less than zero."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def _is_there(result: int) -> bool:
    """Tell whether there was such an entry."""
    if result == -errno.ENOENT:
        return False
    _check(result)
    return True


def _pointer(result: int | None) -> int:
    if not result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
