"""Disassembles code for x86-64, and finds the control flow between its instructions.

Code is disassembled on demand, one function at a time. Some files, such as those of Go and musl, do not describe their functions.
In these files, an instruction is assumed to begin where decodings from many offsets converge.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import capstone

from chaosorca.agent.code.elf import CALL, JUMP, Elf, Range

_COMPUTED_JUMP = re.compile(rb"\xff[\x20-\x24\x26\x27\x60-\x67\xa0-\xa7\xe0-\xe7]")  # jmp *, except *n(%rip)
_NEAR_JUMP = re.compile(rb"(?s)[\xeb\x70-\x7f\xe0-\xe3](?=(.))")
_NEAR = 130  # the reach of a short jump in bytes, including the jump itself
_ENDS = {"jmp", "ljmp", "ret", "retf", "iret", "iretd", "iretq", "hlt", "ud2", "int3", "sysret", "sysexit", ".byte"}
# Some of these instructions transfer control or delay signals. The kernel refuses uprobes on the others.
UNSUITABLE = {
    "call",
    "lcall",
    "int",
    "int1",
    "into",
    "syscall",
    "sysenter",
    "in",
    "out",
    "insb",
    "insd",
    "outsb",
    "outsd",
    "cli",
    "sti",
}
# These instructions may also transfer control, or set the trap flag.
_NOT_STRAIGHT = {"loop", "loope", "loopne", "xbegin", "xabort", "popf", "popfd", "popfq"}

_CHUNK = 1024  # bytes; code outside functions is disassembled in chunks of this size
_AROUND = 256  # bytes; to find where an instruction begins, decoding starts this far before it
_TRIES = 16  # decodings that are compared
_CONVERGING = 48  # bytes; the decodings must converge within this distance
_AGREED = 0.75  # the share of the decodings that must converge
_PADDING = 64  # the most no-operations that a compiler puts between blocks
_LONG = 1024  # bytes; in a longer function, only a part is disassembled first, which is cheaper


def _register_names() -> dict[str, str]:
    """Return a table that maps the names of 32-bit and 64-bit registers to the names of 64-bit registers."""
    names = {f"{letter}{rest}": f"r{rest}" for rest in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp") for letter in "re"}
    return names | {f"r{number}{width}": f"r{number}" for number in range(8, 16) for width in ("", "d")}


def _part_names() -> dict[str, str]:
    """Return a table that maps the names of 8-bit and 16-bit registers to the names of 64-bit registers."""
    old = {f"{letter}{part}": f"r{letter}x" for letter in "abcd" for part in "xlh"}
    pointers = {f"{name}{part}": f"r{name}" for name in ("si", "di", "bp", "sp") for part in ("", "l")}
    return old | pointers | {f"r{number}{width}": f"r{number}" for number in range(8, 16) for width in "wb"}


REGISTERS = _register_names()
"""Maps the name of each 32-bit or 64-bit register to the name of the 64-bit register."""

_FAMILIES = REGISTERS | _part_names()
_KEPT_BY_CALLS = {"rbx", "rbp", "rsp", "r12", "r13", "r14", "r15"}
_CHANGED_BY_KERNEL = {"rax", "rcx", "r11"}


class Instruction(NamedTuple):
    """A disassembled instruction."""

    address: int
    size: int
    mnemonic: str
    operands: str

    @property
    def text(self) -> str:
        """The mnemonic and the operands."""
        return f"{self.mnemonic} {self.operands}".strip()

    @property
    def end(self) -> int:
        """The address just after the instruction."""
        return self.address + self.size

    @property
    def name(self) -> str:
        """The mnemonic without prefixes (`notrack`, `bnd`, `rep`, `lock`)."""
        return self.mnemonic.rpartition(" ")[2]

    @property
    def goes_straight_on(self) -> bool:
        """Whether execution always continues with the instruction that follows in memory."""
        if self.name in UNSUITABLE or self.name in _NOT_STRAIGHT or self.mnemonic.startswith("rep"):
            return False
        return self.name[0] != "j" and not self.operands.startswith("ss,")  # after a change of %ss, signals are delayed

    @property
    def target(self) -> int | None:
        """The target of a jump; None if the instruction is not a jump or computes its target."""
        if self.operands.startswith("0x") and (self.name.startswith(("j", "loop"))):
            return int(self.operands, 16)
        return None


class Code:
    """The instructions around system calls, and the control flow between them."""

    def __init__(self, file: Elf) -> None:
        self.file = file
        self.function = functools.cache(file.function)
        self._decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self._decoder.skipdata = True
        self._details = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self._details.detail = True
        self._at: dict[int, Instruction] = {}
        self._before: dict[int, Instruction] = {}
        self._jumps: dict[int, set[int]] = defaultdict(set)
        self._read: set[tuple[int, bool]] = set()
        self._chunks: dict[int, int] = {}
        self._linked: dict[int, set[int]] = defaultdict(set)
        self._computing: dict[tuple[int, int] | None, bool] = {None: True}

    def is_instruction(self, address: int, text: str) -> bool:
        """Return whether an instruction with this text begins at an address."""
        bounds = self.function(address)
        if bounds is not None and bounds[1] - bounds[0] > _LONG:
            begin = bounds[0] if address - bounds[0] <= _LONG else self._converged(address - _AROUND, bounds[0])
            if not any(one.address == address and one.text == text for one in self._decode(begin, address + 2)):
                return False
        instruction = self.instruction(address)
        return instruction is not None and instruction.text == text

    def instruction(self, address: int) -> Instruction | None:
        """Return the instruction that begins at an address; None if no instruction begins there.

        The whole function that contains the address is disassembled. Outside functions, a chunk of code is disassembled.
        """
        begin, end = self._bounds(address)
        outside = self.function(address) is None
        if (begin, outside) not in self._read:
            self._read.add((begin, outside))
            last: Instruction | None = None
            behind = -1
            for one in self._decode(begin, end):
                at = one.address
                if outside and self.function(at) is not None:  # decode the instruction together with its function
                    last = self.instruction(at)
                    behind = -1 if last is None else last.end
                    continue
                self._at[at] = one
                if last is not None and behind == at:
                    self._before[at] = last
                if one.operands.startswith("0x") and (target := one.target) is not None:
                    self._jumps[target].add(at)
                    if not begin <= target < end:
                        self._linked[begin].add(target)
                last, behind = one, at + one.size
            if last is not None and outside and last.end == end:
                self._before[end] = last
        return self._at.get(address)

    def _bounds(self, address: int) -> tuple[int, int]:
        """Return the bounds of the function that contains an address. Outside functions, return the bounds of a chunk of code."""
        function = self.function(address)
        if function is not None:
            return function
        part = self.file.part(address)
        if part is None:
            return address, address
        index = (address - part.address) // _CHUNK
        begin, end = (self._chunk(part, one) for one in (index, index + 1))
        if address >= end:  # the last instruction of this chunk reaches into the next chunk
            return end, self._chunk(part, index + 2)
        return (begin, end) if address >= begin else (self._chunk(part, index - 1), begin)

    def _chunk(self, part: Range, index: int) -> int:
        """Return the address of the first instruction of a chunk."""
        address = part.address + index * _CHUNK
        if address >= part.end:
            return part.end
        if address not in self._chunks:
            self._chunks[address] = self._converged(address, part.address)
        return self._chunks[address]

    def _decode(self, begin: int, end: int) -> Iterator[Instruction]:
        return map(Instruction._make, self._decoder.disasm_lite(self.file.read(begin, end), begin))

    def _converged(self, lowest: int, first: int) -> int:
        """Return an address at which an instruction begins.

        The result is `first` if `lowest` is not above `first`. Otherwise, the code is decoded from different offsets after
        `lowest`, and the result is the lowest address at which most decodings converge.
        """
        if lowest <= first:
            return first
        end = lowest + _TRIES + _CONVERGING
        code = self.file.read(lowest, end + 16)
        visits = Counter(
            address
            for skipped in range(_TRIES)
            for address, *_ in self._decoder.disasm_lite(code[skipped:], lowest + skipped)
            if address < end
        )
        return min((address for address, count in visits.items() if count >= _AGREED * _TRIES), default=lowest)

    def connect(self, calls: list[int]) -> None:
        """Find the jumps from other code into the functions that contain these calls.

        Compilers place some parts of a function far from its main part.
        """
        if not calls:
            return
        bounds = sorted({self._bounds(address) for address in calls})
        begins = [begin for begin, _ in bounds]

        def leads_inside(source: int, target: int) -> bool:
            begin, end = bounds[bisect_right(begins, target) - 1]
            return begin <= target < end and not begin <= source < end and not self.begins_function(target)

        def add_jump(source: int, target: int) -> None:
            if leads_inside(source, target) and (jump := self.instruction(source)) is not None and jump.target == target:
                self._linked[bounds[bisect_right(begins, target) - 1][0]].add(source)

        pages = {page for begin, end in bounds for page in range(begin >> 8, (end >> 8) + 1)}
        for opcode, source, target in self.file.branches:
            if target >> 8 in pages and opcode != CALL[0]:
                add_jump(source, target)
        for begin, end in bounds:
            for first, last in ((begin - _NEAR, begin), (end, end + _NEAR)):
                for match in _NEAR_JUMP.finditer(self.file.read(first, last)):
                    source = first + match.start()
                    add_jump(source, source + 2 + int.from_bytes(match[1], "little", signed=True))

    def into(self, address: int) -> list[Instruction]:
        """Return the instructions that can pass control directly to an address."""
        before = self._previous(address)
        straight = [] if before is None or before.name in _ENDS or self._is_padding(before) else [before]
        return straight + [self._at[source] for source in sorted(self._jumps.get(address, ())) if self._at[source] not in straight]

    def _previous(self, address: int) -> Instruction | None:
        """Return the instruction just before an address, if it belongs to the same function; None otherwise."""
        if address not in self._before and not self.begins_function(address):
            self.instruction(address - 1)  # the instruction before a chunk's first one is in the previous chunk
        return self._before.get(address)

    def _is_padding(self, instruction: Instruction) -> bool:
        """Return whether an instruction is padding. Padding is no-operations between functions or blocks, and is never executed."""
        if instruction.name != "nop":
            return False
        last: Instruction | None = instruction
        for _ in range(_PADDING):
            if last is None or last.name in _ENDS:
                return True
            if last.name != "nop" or last.address in self._jumps or self.begins_function(last.address):
                return False
            last = self._previous(last.address)
        return False

    def may_be_data(self, address: int) -> bool:
        """Return whether an address may hold data. A uprobe on data could change a table of constants.

        An address may hold data if the file describes functions, but none of them contains the address. Functions in assembly
        may lack descriptions. Code that is called by a described function is not treated as data.
        """
        if not self.file.describes_functions or self.function(address) is not None:
            return False
        return not any(self._leads_straight(start, address) for start in self._called_before(address))

    def _called_before(self, address: int) -> set[int]:
        """Return the beginnings of undescribed functions, at most `_LONG` bytes before an address.

        These beginnings are the targets of direct calls and jumps from described functions.
        """
        near = range(max(address - _LONG + 1, 0), address + 1)
        return {
            target
            for target in near
            if target in self._called and self.function(target) is None and any(map(self.function, self._called[target]))
        }

    @functools.cached_property
    def _called(self) -> dict[int, list[int]]:
        """The targets of all bytes that may be direct calls and jumps, each with the addresses of its sources."""
        found: dict[int, list[int]] = defaultdict(list)
        wanted = CALL + JUMP
        for opcode, source, target in self.file.branches:
            if opcode in wanted:
                found[target].append(source)
        return dict(found)

    @functools.cached_property
    def _named(self) -> set[int]:
        """The addresses of symbols. In assembly, parts of functions have symbols, too."""
        return {symbol.address for symbol in self.file.symbols()}

    def _leads_straight(self, start: int, address: int) -> bool:
        """Return whether the bytes between two addresses are a sequence of whole, valid instructions."""
        end = start
        for one in self._details.disasm(self.file.read(start, address), start):
            end = one.address + one.size
        return end == address

    def begins_function(self, address: int) -> bool:
        """Return whether a function begins at an address. A function may have unknown callers."""
        bounds = self.function(address)
        return bounds is not None and bounds[0] == address

    def may_be_entered(self, address: int) -> bool:
        """Return whether control may reach an address by a call or from unknown code."""
        calls = any(self.file.read(at, at + 1) == CALL for at in self._called.get(address, ()))
        return calls or address in self._named or self.begins_function(address)

    def may_be_padding(self, instruction: Instruction) -> bool:
        """Return whether a no-operation may be padding after a call that does not return. Such padding is never executed."""
        last: Instruction | None = instruction
        while last is not None and last.name == "nop":
            last = self._previous(last.address)
        return instruction.name == "nop" and last is not None and last.name == "call"

    def computes_jumps(self, address: int) -> bool:
        """Return whether the function that contains an address has a computed jump, such as a jump through a jump table.

        All parts of the function are searched. A distant part (`.cold`) has its own description, and jumps into the middle of
        the main part.
        """
        function = self.function(address)
        others = self._linked.get(function[0], ()) if function else ()
        parts = {self.function(other) for other in others if not self.begins_function(other)}
        return any(self._computes_jumps(part) for part in {function, *parts})

    def _computes_jumps(self, function: tuple[int, int] | None) -> bool:
        if function not in self._computing and function is not None:
            begin, end = function
            self.instruction(begin)
            bytes_at = (begin + match.start() for match in _COMPUTED_JUMP.finditer(self.file.read(begin, end)))
            self._computing[function] = any(
                (one := self._at.get(at - prefixes)) is not None and one.name in ("jmp", "ljmp")
                for at in bytes_at
                for prefixes in range(4)
            )
        return self._computing[function]

    def changes(self, instruction: Instruction, register: str) -> bool:
        """Return whether an instruction writes to a register."""
        if instruction.name == "call":
            return register not in _KEPT_BY_CALLS
        if instruction.name in ("syscall", "sysenter", "int"):
            return register in _CHANGED_BY_KERNEL
        for one in self._details.disasm(self.bytes_of(instruction), instruction.address, 1):
            return register in {_FAMILIES.get(one.reg_name(number)) for number in one.regs_access()[1]}
        return True

    def bytes_of(self, instruction: Instruction) -> bytes:
        """Return the bytes of an instruction."""
        return self.file.read(instruction.address, instruction.address + instruction.size)
