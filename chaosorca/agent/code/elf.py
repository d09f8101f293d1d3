"""Reads facts about the code of an ELF file for x86-64: load addresses, bounds of functions, and symbols.

The bounds of functions come from the tables for stack unwinding (`.eh_frame_hdr`, `.eh_frame`). Stripped files have these tables,
too. The formats are defined by the generic ABI (gABI) and the Linux Standard Base. The pointer encodings are those of DWARF.
"""

from __future__ import annotations

import functools
import re
import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_UNWIND_HEADER = struct.Struct("<BBBBiI")
_UNWIND_ENTRY = struct.Struct("<ii")
_DISTANCE, _DISTANCE_SIZE = struct.Struct("<i").unpack_from, 4
_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little endian
_X86_64 = 62
_LOAD = 1
_UNWIND = 0x6474E550
_EXECUTABLE_SEGMENT = 1
_EXECUTABLE_SECTION = 4
_PROGRAM_BITS = 1
_SYMBOLS, _STRINGS, _RELOCATIONS, _DYNAMIC_SYMBOLS = 2, 3, 4, 11
_SORTED_TABLE = (1, 0x1B, 0x03, 0x3B)  # version 1, relative pointers of 4 bytes; linkers write only this kind
_LONG_FUNCTION = 4096  # bytes; with every compiler, the average function is shorter
_SETS_RAX = (b"\x48", b"\xb8")  # mov $number,%rax; mov $number,%eax
_RELATIVE = 0x10  # the pointer is relative to its own address
_POINTER_SIZES = {0x00: 8, 0x02: 2, 0x03: 4, 0x04: 8, 0x0A: 2, 0x0B: 4, 0x0C: 8}


@dataclass(frozen=True)
class Range:
    """A range of bytes in the file, and its load address."""

    address: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        """The address just after the last byte."""
        return self.address + self.size


@dataclass(frozen=True)
class Section:
    """A section of the file."""

    name: bytes
    kind: int
    address: int
    offset: int
    size: int
    link: int
    """The index of a section that this one refers to. For example, a symbol table refers to its string table."""

    @property
    def holds_strings(self) -> bool:
        """Whether this is a string table."""
        return self.kind == _STRINGS


@dataclass(frozen=True)
class Symbol:
    """A symbol. The address of an imported symbol is usually 0."""

    name: bytes
    address: int
    is_defined: bool


@dataclass(frozen=True)
class Branches:
    """Bytes that may be direct calls and jumps, as parallel arrays. Arrays save memory, since a large file has 100 000 of them."""

    opcodes: bytearray = field(default_factory=bytearray)
    """The last byte of each opcode: `CALL`, `JUMP`, or the last byte of a conditional jump's opcode."""
    sources: array[int] = field(default_factory=lambda: array("q"))
    targets: array[int] = field(default_factory=lambda: array("q"))

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return zip(self.opcodes, self.sources, self.targets, strict=True)


CALL, JUMP = b"\xe8", b"\xe9"
_CONDITIONAL = (b"\x0f", {bytes([second]) for second in range(0x80, 0x90)})


class Elf:
    """The code of an ELF file. Addresses are as in the file. For position-independent code, the load offset is not added."""

    def __init__(self, data: bytes) -> None:
        """Read the headers.

        Raises:
            ValueError: the file is not an ELF file for x86-64, or is damaged.
        """
        if len(data) < _HEADER.size or not data.startswith(_MAGIC):
            raise ValueError("not an ELF file of 64 bits")
        self.data = data
        header = _HEADER.unpack_from(data)
        machine, segments_at, sections_at = header[2], header[5], header[6]
        segment_size, segment_count, section_size, section_count, names = header[9:]
        if machine != _X86_64:
            raise ValueError(f"an ELF file for machine {machine}, not for x86-64")
        self._unwind: Range | None = None
        self._segments: list[Range] = []
        executable: list[Range] = []
        try:
            for at in range(segments_at, segments_at + segment_count * segment_size, segment_size):
                kind, flags, offset, address, _, size, _, _ = _SEGMENT.unpack_from(data, at)
                part = Range(address, offset, min(size, len(data) - offset))
                if part.size <= 0:
                    continue
                if kind == _LOAD:
                    self._segments.append(part)
                    if flags & _EXECUTABLE_SEGMENT:
                        executable.append(part)
                elif kind == _UNWIND:
                    self._unwind = part
            sections = [_SECTION.unpack_from(data, sections_at + index * section_size) for index in range(section_count)]
        except (struct.error, ValueError) as error:
            raise ValueError(f"the headers of the ELF file are damaged: {error}") from None
        # Old linkers put tables into the code segment. A uprobe on a table would change data. Sections separate code from tables.
        code = [
            Range(address, offset, min(size, len(data) - offset))
            for _, kind, flags, address, offset, size, *_ in sections
            if kind == _PROGRAM_BITS and flags & _EXECUTABLE_SECTION and offset < len(data)
        ]
        within = [part for part in code if any(self._holds(segment, part) for segment in executable)]
        self.code: list[Range] = within or executable
        self._described_at: dict[int, tuple[int, int]] = {}
        self._read_unwind_header()
        self._functions: list[tuple[int, int]] = []
        if not self._count and names < len(sections):
            self._read_unwind_section(sections, sections[names][4])
        self._sections = sections
        self._names_at = sections[names][4] if names < len(sections) else 0
        # A file may describe only a few of its functions. Go programs, for example, describe only the functions of the C runtime.
        count = max(self._count, len(self._functions))
        self.describes_functions = count * _LONG_FUNCTION >= sum(part.size for part in self.code)

    @staticmethod
    def _holds(segment: Range, part: Range) -> bool:
        return segment.address <= part.address and part.end <= segment.end

    def _read_unwind_header(self) -> None:
        """Read the sorted table of functions."""
        self._count = 0
        if (
            self._unwind is None
            or self._unwind.size < _UNWIND_HEADER.size
            or self._unwind.offset + self._unwind.size > len(self.data)
        ):
            return
        *encodings, _, count = _UNWIND_HEADER.unpack_from(self.data, self._unwind.offset)
        if tuple(encodings) == _SORTED_TABLE:
            begin = self._unwind.offset + _UNWIND_HEADER.size
            self._count = min(count, (self._unwind.size - _UNWIND_HEADER.size) // _UNWIND_ENTRY.size)
            entries = _UNWIND_ENTRY.iter_unpack(self.data[begin : begin + self._count * _UNWIND_ENTRY.size])
            self._starts, self._records = map(list, zip(*entries, strict=True)) if self._count else ([], [])

    def _read_unwind_section(self, sections: list[tuple[int, ...]], names_at: int) -> None:
        """Read the functions from the unwind section. Some static programs have this section, but not the sorted table."""
        for name, _, _, address, offset, size, *_ in sections:
            if self.data.startswith(b".eh_frame\0", names_at + name):
                at = offset
                while at + 8 <= offset + size:
                    length, back = struct.unpack_from("<II", self.data, at)
                    if back:
                        self._functions.append(self._described(at, address + at - offset))
                    if length in (0, 0xFFFFFFFF):
                        break
                    at += 4 + length
        self._functions.sort()

    def sections(self) -> list[Section]:
        """Return the sections in the order of the section table; empty if the file has no such table."""
        return [
            Section(self._string(self._names_at + name), kind, address, offset, size, link)
            for name, kind, _, address, offset, size, link, *_ in self._sections
        ]

    def symbols(self, dynamic_only: bool = False) -> Iterator[Symbol]:
        """Return the symbols of all symbol tables, or only the symbols for the dynamic linker."""
        sections = self.sections()
        for section in sections:
            if section.kind == _DYNAMIC_SYMBOLS or (section.kind == _SYMBOLS and not dynamic_only):
                yield from self._symbols(section, sections)

    def relocations(self) -> Iterator[tuple[int, int, Symbol]]:
        """Return the addresses that the dynamic linker fills in, each with its relocation type (R_X86_64_*) and symbol."""
        sections = self.sections()
        for section in sections:
            if section.kind != _RELOCATIONS or section.link >= len(sections):
                continue
            symbols = list(self._symbols(sections[section.link], sections))
            for address, info, _ in self._rows(_RELOCATION, section):
                if info >> 32 < len(symbols):
                    yield address, info & 0xFFFFFFFF, symbols[info >> 32]

    def _symbols(self, section: Section, sections: list[Section]) -> Iterator[Symbol]:
        if section.kind not in (_SYMBOLS, _DYNAMIC_SYMBOLS) or section.link >= len(sections):
            return
        names_at = sections[section.link].offset
        for name, _, _, where, address, _ in self._rows(_SYMBOL, section):
            yield Symbol(self._string(names_at + name), address, where != 0)

    def _rows(self, layout: struct.Struct, section: Section) -> Iterator[tuple[int, ...]]:
        data = self.data[section.offset : section.offset + section.size]
        return layout.iter_unpack(data[: len(data) // layout.size * layout.size])

    def _string(self, at: int) -> bytes:
        end = self.data.find(b"\0", at)
        return self.data[at : max(end, at)]

    def offset(self, address: int) -> int:
        """Return the file offset of the byte at an address.

        Raises:
            ValueError: the file contains no byte for this address.
        """
        for part in (*self.code, *self._segments):
            if part.address <= address < part.end:
                return address - part.address + part.offset
        raise ValueError(f"address {address:#x} is in no part of the file that is loaded")

    def part(self, address: int) -> Range | None:
        """Return the range of code that contains an address; None if there is none."""
        return next((part for part in self.code if part.address <= address < part.end), None)

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes of code from `start` to `end`, but not beyond the range of code that contains `start`."""
        for begin, behind, moved in self._parts:
            if begin <= start < behind:
                return self.data[start - moved : min(end, behind) - moved]
        return b""

    @functools.cached_property
    def _parts(self) -> list[tuple[int, int, int]]:
        """For each range of code, the first address, the address just after the range, and the address minus the file offset."""
        return [(part.address, part.end, part.address - part.offset) for part in self.code]

    def distances(self, pattern: re.Pattern[bytes]) -> Iterator[tuple[int, int]]:
        """Find instructions that end with a 32-bit displacement. Return the address and the target of each match.

        A match may also be other bytes that look like such an instruction.

        Arguments:
            pattern: matches the bytes of the instruction before its displacement.
        """
        for part in self.code:
            moved = part.address - part.offset
            for match in pattern.finditer(self.data, part.offset, part.offset + part.size):
                end = match.end()
                yield match.start() + moved, end + moved + _DISTANCE_SIZE + _DISTANCE(self.data, end)[0]

    @functools.cached_property
    def linkage(self) -> list[range]:
        """The procedure linkage tables. Linkers write these tables. They contain only jumps to functions of other files."""
        return [range(one.address, one.address + one.size) for one in self.sections() if one.name.startswith(b".plt")]

    @functools.cached_property
    def branches(self) -> Branches:
        """All bytes that may be direct calls or jumps with a 32-bit displacement, and their targets."""
        found = Branches()
        for part in self.code:
            code = self.data[part.offset : part.offset + part.size]
            first, seconds = _CONDITIONAL
            conditional = [end + 1 for end in _behind(first, code) if code[end : end + 1] in seconds]
            for ends, size in ((_behind(CALL, code), 1), (_behind(JUMP, code), 1), (conditional, 2)):
                while ends and ends[-1] + _DISTANCE_SIZE > len(code):
                    ends.pop()
                begin, behind = part.address - size, part.address + _DISTANCE_SIZE
                found.opcodes.extend([code[end - 1] for end in ends])
                found.sources.extend([end + begin for end in ends])
                found.targets.extend([end + behind + _DISTANCE(code, end)[0] for end in ends])
        return found

    def function(self, address: int) -> tuple[int, int] | None:
        """Return the bounds of the function that contains an address; None if they are unknown.

        The bounds are the function's first address and the address just after the function.
        """
        if self._functions:
            index = bisect_right(self._functions, (address, sys.maxsize)) - 1
            start, size = self._functions[index] if index >= 0 else (0, 0)
        elif self._count and self._unwind is not None:
            index = bisect_right(self._starts, address - self._unwind.address) - 1
            start, size = self._at(self._unwind.address + self._records[max(index, 0)])
        else:
            return None
        return (start, start + size) if start <= address < start + size else None

    def _at(self, record: int) -> tuple[int, int]:
        """Return the first address and the size of the function that an unwind entry describes; zeros if the entry is unreadable.

        Arguments:
            record: the address of the entry.
        """
        if record not in self._described_at:
            try:
                self._described_at[record] = self._described(self.offset(record), record)
            except ValueError:
                self._described_at[record] = (0, 0)
        return self._described_at[record]

    def _described(self, at: int, address: int) -> tuple[int, int]:
        """Return the first address and the size of the function that an unwind entry describes; zeros if the entry is unreadable.

        Arguments:
            at: the offset of the entry in the file.
            address: the address of the entry.
        """
        try:
            (back,) = struct.unpack_from("<I", self.data, at + 4)
            encoding, of_signals = self._encoding(at + 4 - back)
            width = _POINTER_SIZES.get(encoding & 0x0F, 0)
            first, second = at + 8, at + 8 + width
            start = int.from_bytes(self.data[first:second], "little", signed=bool(encoding & 0x08))
            start += address + 8 if encoding & 0x70 == _RELATIVE else 0
            size = int.from_bytes(self.data[second : second + width], "little")
            # glibc's entry for the return from signal handlers begins one byte before the function, to support old unwinders.
            early = of_signals and self.read(start, start + 1) not in _SETS_RAX
            return start + early, size - early
        except (ValueError, IndexError, KeyError, struct.error):
            return 0, 0

    def _encoding(self, at: int) -> tuple[int, bool]:
        """Return the pointer encoding of a common information entry, and whether the entry is for returns from signal handlers."""
        end = self.data.index(b"\0", at + 9)
        augmentation = self.data[at + 9 : end]
        if not augmentation.startswith(b"z"):
            return 0, False
        of_signals = b"S" in augmentation
        at = end + 1
        for _ in range(4):  # the alignments of code and of data, the register of the return address, the length of the rest
            at = self._behind_number(at)
        for letter in augmentation[1:].decode("latin-1"):
            if letter == "R":
                return self.data[at], of_signals
            if letter == "P":
                at += 1 + _POINTER_SIZES[self.data[at] & 0x0F]
            elif letter == "L":
                at += 1
        return 0, of_signals

    def _behind_number(self, at: int) -> int:
        while self.data[at] & 0x80:
            at += 1
        return at + 1


def _behind(byte: bytes, data: bytes) -> list[int]:
    """Return the offset after each occurrence of a byte. This is several times faster than repeated `find`."""
    return list(accumulate([len(piece) + 1 for piece in data.split(byte)[:-1]]))
