"""Loads eBPF programs that were compiled when the agent's image was built, sets their constants, and attaches them."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from chaosorca.agent.ebpf.layout import Layout, PerCpuLayout
from chaosorca.agent.ebpf.library import RunOptions, UprobeOptions, check, libbpf, messages, pointer, possible_processors
from chaosorca.agent.ebpf.table import Table
from chaosorca.model.contract import PROGRAMS
from chaosorca.model.errors import AgentError

_CONSTANTS = ".rodata"
_DATA_SECTION = 15  # BTF_KIND_DATASEC
_BTF_TYPE = struct.Struct("=III")  # name, kind and number of members, size; see the kernel's Documentation/bpf/btf.rst
_BTF_VARIABLE = struct.Struct("=III")  # type, offset, size
_PER_CPU_MAPS = (5, 6, 10)  # hash, array, LRU hash
_ARRAYS = (2, 3, 6)  # array, array of programs, per-CPU array


class Program:
    """A loaded object file, with its functions and its maps. `close` detaches its functions and unloads it."""

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
        """Load `NAME.o`, and attach the functions of its sections `raw_tp/...`.

        Arguments:
            name: the name of the object file, without its suffix.
            layouts: for each map, the formats of keys and values (see `Layout`). A per-CPU map has the format of one value.
            constants: the values of the program's `const volatile` variables. A variable without a given value is 0.
            attach_types: for each function whose section does not imply an attach type, the kernel's number of the expected type.
            maps_of: another loaded program. This program uses the other program's maps of the same names.
            directory: the directory of `NAME.o`.
            capacities: the maximum number of entries by map. Other maps keep the maximum that the source sets.
            later: functions in sections `raw_tp/...` that `attach` attaches later.

        Raises:
            AgentError: the kernel or libbpf refuses the program.
        """
        self.name = name
        self._links: list[int] = []
        self._object: int | None = None
        with messages() as reported:
            try:
                self._object = pointer(libbpf().bpf_object__open_file(os.fsencode(directory / f"{name}.o"), None))
                self._set_constants(constants or {})
                for function, attach_type in (attach_types or {}).items():
                    check(libbpf().bpf_program__set_expected_attach_type(self._function(function), attach_type))
                if maps_of is not None:
                    self._share_maps(maps_of)
                for map_name, capacity in (capacities or {}).items():
                    check(libbpf().bpf_map__set_max_entries(self._map(map_name), capacity))
                check(libbpf().bpf_object__load(self._object))
                self._tables = {map_name: self._table(map_name, *layout) for map_name, layout in layouts.items()}
                self._attach_all(later)
            except OSError as error:
                self.close()
                details = " (libbpf: {})".format(" | ".join(reported)) if reported else ""
                raise AgentError(f"the eBPF program {name!r} cannot be loaded: {error.strerror}{details}") from error
            except BaseException:
                self.close()
                raise

    def fd(self, function: str) -> int:
        """Return the descriptor of a function."""
        return check(libbpf().bpf_program__fd(self._function(function)))

    def __getitem__(self, name: str) -> Table:
        """Return a map."""
        return self._tables[name]

    def run(self, function: str, context: bytes) -> bytes:
        """Run a function of section `syscall` once, and return the context that it has written.

        Raises:
            OSError: the kernel refuses it.
        """
        changed = ctypes.create_string_buffer(context, len(context))
        options = RunOptions(sz=ctypes.sizeof(RunOptions), ctx_in=ctypes.addressof(changed), ctx_size_in=len(context))
        check(libbpf().bpf_prog_test_run_opts(self.fd(function), ctypes.byref(options)))
        return changed.raw

    def entries_in_use(self) -> dict[str, int]:
        """Return the number of entries of each map. Arrays are left out, since they are always full."""
        return {name: len(table) for name, table in self._tables.items() if not table.is_array}

    def dump(self, limit: int = 1000) -> dict[str, Any]:
        """Return the content of the maps for debugging, as JSON.

        Arguments:
            limit: the maximum number of entries of each map.

        Returns:
            for each map, the number of its `entries`, and its `content` as a list of pairs `[key, value]`. A tuple becomes a list.
            A per-CPU value becomes a list with one value for each possible processor. Bytes become hexadecimal digits.
        """
        return {
            name: {"entries": len(table), "content": [[_json(key), _json(value)] for key, value in table.entries(limit)]}
            for name, table in self._tables.items()
        }

    def dropped(self) -> int:
        """Return how many updates found a map full; see `DROPS` in bpf/common.h."""
        return int(self["dropped"].get(0))

    def attach(self, function: str) -> int:
        """Attach a function to the place that its section names, and return a link for `detach`.

        Raises:
            OSError: the kernel refuses it.
        """
        return pointer(libbpf().bpf_program__attach(self._function(function)))

    def attach_uprobe(self, function: str, path: str, offset: int, cookie: int, at_return: bool = False) -> int:
        """Attach a function to one instruction of a file, and return a link for `detach`.

        Arguments:
            function: the function's name.
            path: the file.
            offset: the instruction's offset in the file, in bytes.
            cookie: the value of `bpf_get_attach_cookie()` at the instruction.
            at_return: run the program at the return of the function that begins at the offset.

        Raises:
            OSError: the kernel refuses it.
        """
        options = UprobeOptions(sz=ctypes.sizeof(UprobeOptions), bpf_cookie=cookie, retprobe=at_return)
        where = (-1, os.fsencode(path), offset)  # -1: in all processes
        return pointer(libbpf().bpf_program__attach_uprobe_opts(self._function(function), *where, ctypes.byref(options)))

    @staticmethod
    def detach(link: int) -> None:
        """Detach what `attach` or `attach_uprobe` attached."""
        libbpf().bpf_link__destroy(link)

    def close(self) -> None:
        """Detach and unload the program."""
        for link in self._links:
            self.detach(link)
        self._links = []
        if self._object is not None:
            libbpf().bpf_object__close(self._object)
        self._object = None

    def _function(self, name: str) -> int:
        return pointer(libbpf().bpf_object__find_program_by_name(self._object, name.encode()))

    def _map(self, name: str) -> int:
        return pointer(libbpf().bpf_object__find_map_by_name(self._object, name.encode()))

    def _table(self, name: str, key: str, value: str) -> Table:
        found = self._map(name)
        sizes = (libbpf().bpf_map__key_size(found), libbpf().bpf_map__value_size(found))
        if sizes != (wanted := (Layout(key).size, Layout(value).size)):
            raise ValueError(f"map {name!r} of {self.name!r} has keys and values of {sizes} bytes, but the layout has {wanted}")
        kind = libbpf().bpf_map__type(found)
        values = PerCpuLayout(value, possible_processors()) if kind in _PER_CPU_MAPS else Layout(value)
        capacity = libbpf().bpf_map__max_entries(found)
        return Table(libbpf().bpf_map__fd(found), Layout(key), values, capacity, kind in _ARRAYS, name)

    def _set_constants(self, values: Mapping[str, int]) -> None:
        if not values:
            return
        places = self._constants()
        begin = pointer(libbpf().bpf_map__initial_value(self._map(_CONSTANTS), ctypes.byref(ctypes.c_size_t())))
        for name, value in values.items():
            if name not in places:
                raise ValueError(f"the program {self.name!r} has no constant {name!r}")
            offset, size = places[name]
            ctypes.memmove(begin + offset, value.to_bytes(size, "little", signed=value < 0), size)

    def _constants(self) -> dict[str, tuple[int, int]]:
        """Return the offset and the size of each constant in its section, in bytes."""
        types = pointer(libbpf().bpf_object__btf(self._object))
        number = check(libbpf().btf__find_by_name_kind(types, _CONSTANTS.encode(), _DATA_SECTION))
        section = pointer(libbpf().btf__type_by_id(types, number))
        _, info, _ = _BTF_TYPE.unpack(ctypes.string_at(section, _BTF_TYPE.size))
        count = info & 0xFFFF
        members = ctypes.string_at(section + _BTF_TYPE.size, count * _BTF_VARIABLE.size)
        places = {}
        for variable, offset, size in _BTF_VARIABLE.iter_unpack(members):
            name, *_ = _BTF_TYPE.unpack(ctypes.string_at(pointer(libbpf().btf__type_by_id(types, variable)), _BTF_TYPE.size))
            places[libbpf().btf__name_by_offset(types, name).decode()] = (offset, size)
        return places

    def _share_maps(self, other: Program) -> None:
        one = None
        while one := libbpf().bpf_object__next_map(self._object, one):
            if not libbpf().bpf_map__is_internal(one):
                theirs = libbpf().bpf_object__find_map_by_name(other._object, libbpf().bpf_map__name(one))
                if theirs:
                    check(libbpf().bpf_map__reuse_fd(one, libbpf().bpf_map__fd(theirs)))

    def _attach_all(self, later: Collection[str]) -> None:
        one = None
        while one := libbpf().bpf_object__next_program(self._object, one):
            is_later = libbpf().bpf_program__name(one).decode() in later
            if libbpf().bpf_program__section_name(one).startswith(b"raw_tp/") and not is_later:
                self._links.append(pointer(libbpf().bpf_program__attach(one)))


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return [_json(one) for one in value] if isinstance(value, (tuple, list)) else value
