"""The constants, structures and eBPF maps of C sources, read without a compiler. It reads only the C that the agent uses."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CODES = {
    "u8": "B",
    "u16": "H",
    "u32": "I",
    "u64": "Q",
    "s32": "i",
    "s64": "q",
    "char": "B",
    "bool": "B",
    "int": "i",
    "unsigned": "I",
    "uint8_t": "B",
    "uint32_t": "I",
    "int32_t": "i",
    "uint64_t": "Q",
    "int64_t": "q",
}
_MAPS = re.compile(r"\b(HASH|LRU_HASH|PER_CPU_HASH|ARRAY|MAP|PROGRAMS)\(([^()]*)\)")
_FIELD = re.compile(r"\s*((?:const )?(?:struct |enum )?\w+) ([^;{}]+);")


@dataclass(frozen=True)
class Structure:
    """The layout of a structure.

    Attributes:
        offsets: the offset of each field, by name.
        numbers: the code of each number in the module `struct`, by offset.
        size, alignment: in bytes.
    """

    offsets: dict[str, int]
    numbers: dict[int, str]
    size: int
    alignment: int


class CSource:
    """Some C files with the headers that they include from the same folder."""

    def __init__(self, *files: Path) -> None:
        seen: list[Path] = []
        for file in files:
            self._add(file, seen)
        self.text = "\n".join(re.sub(r"/\*.*?\*/", "", file.read_text(), flags=re.DOTALL) for file in seen)
        self.constants = self._read_constants()

    def _add(self, file: Path, seen: list[Path]) -> None:
        if file in seen:
            return
        for name in re.findall(r'#include "([^"]+)"', file.read_text()):
            self._add(file.parent / name, seen)
        seen.append(file)

    def value(self, expression: str) -> int:
        """Return the value of a constant expression."""
        names = re.sub(r"\b(0x[0-9a-fA-F]+|\d+)[uUlL]+\b", r"\1", expression).replace("UINT64_MAX", str(2**64 - 1))
        return int(eval(names, {"__builtins__": {}}, dict(self.constants)))

    def _read_constants(self) -> dict[str, int]:
        self.constants = {}
        found = [(m.start(), [(m[1], m[2])]) for m in re.finditer(r"#define (\w+) ([^\\\n]+)\n", self.text)]
        for enum in re.finditer(r"\benum\b\s*\w*\s*\{([^}]*)\}", self.text):
            found.append((enum.start(), list(_enumerators(enum[1]))))
        for _, constants in sorted(found):
            for name, expression in constants:
                try:
                    self.constants[name] = self.value(expression)
                except (SyntaxError, NameError, TypeError):
                    continue  # a macro that is not a number
        return self.constants

    def structure(self, name: str) -> Structure:
        """Return the structure with this tag. If there is no such tag, return the structure of the variable with this name."""
        tagged = re.search(rf"\bstruct {name}\s*\{{", self.text)
        start = tagged.end() if tagged else self._start_of_variable(name)
        return self._layout(self.text[start : _end_of_block(self.text, start)], is_union=False)

    def _start_of_variable(self, name: str) -> int:
        end = re.search(rf"^\}} {name};", self.text, re.MULTILINE)
        assert end, f"there is no structure {name}"
        return self.text.rindex("struct {", 0, end.start()) + len("struct {")

    def _layout(self, body: str, is_union: bool) -> Structure:
        offsets: dict[str, int] = {}
        numbers: dict[int, str] = {}
        at = end = 0
        alignment = 1
        for field, count, type_ in self._fields(body):
            at = 0 if is_union else at + -at % type_.alignment
            offsets[field] = at
            for index in range(count):
                numbers |= {at + index * type_.size + offset: code for offset, code in type_.numbers.items()}
            at += count * type_.size
            end, alignment = max(end, at), max(alignment, type_.alignment)
        return Structure(offsets, numbers, end + -end % alignment, alignment)

    def _fields(self, body: str) -> Iterator[tuple[str, int, Structure]]:
        at = 0
        while body[at:].strip():
            nested = re.compile(r"\s*(struct|union)\s*\w*\s*\{").match(body, at)
            if nested:
                end = _end_of_block(body, nested.end())
                type_ = self._layout(body[nested.end() : end], nested[1] == "union")
                names, at = body[end + 1 : body.index(";", end)], body.index(";", end) + 1
            else:
                field = _FIELD.match(body, at)
                assert field, f"this is no field: {body[at:]!r}"
                type_, names, at = self.type(field[1]), field[2], field.end()
            for name in names.split(","):
                parts = re.fullmatch(r"\s*(\w+)\s*(?:\[(.+)\])?\s*", name)
                assert parts, f"this is no name: {name!r}"
                yield parts[1], self.value(parts[2]) if parts[2] else 1, type_

    def type(self, name: str) -> Structure:
        """Return the layout of a type, which is a number or a structure."""
        name = name.strip()
        if name.startswith("struct "):
            return self.structure(name.removeprefix("struct "))
        size = struct.calcsize(_CODES[name])
        return Structure({}, {0: _CODES[name]}, size, size)

    def maps(self) -> dict[str, tuple[Structure, Structure]]:
        """Return the type of the keys and the type of the values of each eBPF map, by the map's name."""
        found = {}
        for kind, text in _MAPS.findall(self.text):
            words = [word.strip() for word in text.split(",")]
            if kind == "MAP":
                words.pop(0)
            name, *types, _entries = words
            if kind in ("ARRAY", "PROGRAMS"):
                types = ["u32", *(types or ["u32"])]
            if name not in ("map", "name"):  # not in the definitions of the macros themselves
                found[name] = (self.type(types[0]), self.type(types[1]))
        return found


def same_layout(type_: Structure, format_: str) -> bool:
    """Return whether a type and a format of `struct` have the same size, and the same kinds of numbers at the same offsets.

    Bytes that the format skips (`x`) or reads as a string (`s`) may contain any type.
    """
    numbers: dict[int, str] = {}
    opaque: set[int] = set()
    at = 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", format_):
        size = struct.calcsize(f"={code}")
        for _ in range(int(count or 1)):
            if code in "xs":
                opaque.add(at)
            else:
                numbers[at] = code
            at += size
    return at == type_.size and numbers == {offset: code for offset, code in type_.numbers.items() if offset not in opaque}


def _enumerators(body: str) -> Iterator[tuple[str, str]]:
    before = "-1"
    for text in body.split(","):
        if text.strip():
            name, _, value = (part.strip() for part in text.partition("="))
            before = value or f"({before}) + 1"
            yield name, before


def _end_of_block(text: str, start: int) -> int:
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise AssertionError("a block does not end")
