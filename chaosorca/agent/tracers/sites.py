"""Where a program or library for x86-64 makes its system calls: the instructions to put uprobes on.

A uprobe on `syscall` itself is too late: the kernel holds signals back while it steps over a probed instruction, so the thread
would stop after the call. A probe on the instruction that is executed just before stops it with the instruction pointer on
`syscall`.

Few instructions are emulated by the kernel when they have a probe: jumps, pushes, no-operations. All others it steps over, which
takes thirty times as long. So the probe goes further ahead, on an emulated instruction, if control runs straight from there
to the call.

glibc makes most calls that may block at one of two places, by whether the process has ever had a second thread; before the second
one it calls a function, so that control does not run straight there. A probe on the jump between them serves both: who is to be
stopped on the second way is so before that call, and can be led behind the first place, which gives the same result.

The bytes `0f 05` are searched first, and only the function around each of them is disassembled. Where a file knows no functions
(Go, musl), an instruction begins where decodings from many places meet.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import capstone

from chaosorca.agent.elf import Elf, Range

_ENTRANCES = {b"\x0f\x05": "syscall", b"\xcd\x80": "int 0x80", b"\x0f\x34": "sysenter"}
_ENTRANCE = re.compile(b"|".join(map(re.escape, _ENTRANCES)))
_NEAR_CALL = b"\xe8"
_CALL = re.compile(rb"(?s)[\xe8\xe9](?=....)")
_FAR_JUMP = re.compile(rb"(?s)(?:\xe9|\x0f[\x80-\x8f])(?=....)")
_COMPUTED_JUMP = re.compile(rb"\xff[\x20-\x24\x26\x27\x60-\x67\xa0-\xa7\xe0-\xe7]")  # jmp *, but *n(%rip)
_NEAR_JUMP = re.compile(rb"(?s)[\xeb\x70-\x7f\xe0-\xe3](?=(.))")
_NEAR = 130  # bytes that a near jump reaches, its own included

_ENDS = {"jmp", "ljmp", "ret", "retf", "iret", "iretd", "iretq", "hlt", "ud2", "int3", "sysret", "sysexit", ".byte"}
# After these the thread is elsewhere or signals are held back, or the kernel refuses a probe there.
_UNSUITABLE = {
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
# These may go on elsewhere as well, or set the trap flag.
_NOT_STRAIGHT = {"loop", "loope", "loopne", "xbegin", "xabort", "popf", "popfd", "popfq"}
_EMULATED = re.compile(
    # jmp, jcc, push. Not with a prefix: the kernel steps over such a jump, and processors differ on it.
    rb"(?s)\xeb.|\xe9....|[\x70-\x7f].|\x0f[\x80-\x8f]....|\x41?[\x50-\x57]|"
    # nop. That of 5 bytes is unsuitable.
    rb"\x66*\x90|\x0f\x1f\x00|\x0f\x1f\x40\x00|\x66\x0f\x1f\x44\x00\x00|\x0f\x1f[\x80\x84]\x00{4,5}"
)
_CONDITIONAL = re.compile(rb"[\x26\x2e\x36\x3e\x40-\x4f\x64-\x67\xf2\xf3]*(?:[\x70-\x7f]|\x0f[\x80-\x8f])")
_SIZE_OF_CALL = 5
_FAR = 16  # instructions between an emulated one and the call
_FAR_BYTES = 64  # and their bytes
_MOST_BEGINNINGS = 8
_OF_A_LIBRARY = 8  # pairs of places with a detour by the same function: no other code has so many
_DISTANCES = range(-0x8000, 0x8000)
_MMAP = 9
_PREFIXES = b"\x26\x2e\x36\x3e\xf0\x64\x65\x66\x67\xf2\xf3"
_REFUSED_PREFIXES = b"\x26\x2e\x36\x3e\xf0"  # segments, lock

_CHUNK = 1024  # bytes that are read at once where no function is known
_AROUND = 256  # bytes before an instruction that are enough to find where it begins
_TRIES = 16  # decodings that have to meet
_MEETING = 48  # bytes in which they have to
_AGREED = 0.75
_FILLING = 64  # no more no-operations are put between blocks
_LONG = 1024  # from so many bytes into a function on, a first look at a part of it is cheaper
_STEPS = 4096  # instructions looked at to learn one number
_NUMBERS = 1024  # no system call has a higher one
_MAY_BE_DATA = "it belongs to no function and no number is set before it, so it may be data"
_LOW_BYTE = re.compile(r"al, (0x[0-9a-f]+|\d+)")

_CONSTANT = re.compile(r"\w+, (-?(?:0x)?[0-9a-f]+)")
_COPY = re.compile(r"\w+, (\w+)")
_LOAD = re.compile(r"(\w+), [dq]word ptr \[(r(?!ip)\w+)(?: ([+-]) ((?:0x)?[0-9a-f]+))?\]")


def _register_names() -> dict[str, str]:
    """The 64-bit register for the name of each of its parts that is read or written as a number of 32 or 64 bits."""
    names = {f"{letter}{rest}": f"r{rest}" for rest in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp") for letter in "re"}
    return names | {f"r{number}{width}": f"r{number}" for number in range(8, 16) for width in ("", "d")}


def _part_names() -> dict[str, str]:
    """The 64-bit register for the name of each of its smaller parts."""
    old = {f"{letter}{part}": f"r{letter}x" for letter in "abcd" for part in "xlh"}
    pointers = {f"{name}{part}": f"r{name}" for name in ("si", "di", "bp", "sp") for part in ("", "l")}
    return old | pointers | {f"r{number}{width}": f"r{number}" for number in range(8, 16) for width in "wb"}


_REGISTERS = _register_names()
_FAMILIES = _REGISTERS | _part_names()
_KEPT_BY_CALLS = {"rbx", "rbp", "rsp", "r12", "r13", "r14", "r15"}
_CHANGED_BY_KERNEL = {"rax", "rcx", "r11"}


@dataclass(frozen=True)
class Site:
    """A place for a uprobe.

    A thread that is stopped from here has its instruction pointer `to_next` bytes from the probe, and runs from there straight to
    the `syscall`. Where `condition` does not hold, the probed instruction leads elsewhere: no system call is made. So it may also
    be, without a condition, if it is `loop` or `jrcxz`: then the thread is found elsewhere.

    Two sites have the same offset if both ways of a jump on a condition lead to a call.
    """

    offset: int
    """Where in the file the instruction is that the uprobe goes on."""
    to_syscall: int
    """Bytes from there to `syscall`; less than zero after a jump backwards."""
    nr: int | None
    """The number that the code sets; None: the code does not tell."""
    held_in: str | None = "rax"
    """The register whose lower half holds the number when the probed instruction begins; None: it or what follows it sets `nr`."""
    held_at: int | None = None
    """Not None: the register is an address, and the number is in the 4 bytes of memory so far behind it."""
    to_next: int | None = None
    """Bytes from the probe to the instruction at which a thread that is stopped from here finds itself; None: the `syscall` itself,
    `to_syscall` bytes away."""
    condition: int | None = None
    """The condition code (0-15, as in the low four bits of the opcode of `jcc`; Intel SDM, appendix B.1.4.7) that must hold when
    the probed instruction begins for control to go to the call; None: it always does."""
    detour: int | None = None
    """Not None: bytes from the probe to the instruction at which a thread is found if the condition does not hold. From there it
    gets to another `syscall`, no more than `DETOUR` bytes on, which makes the same call."""

    @property
    def rax_is_set(self) -> bool:
        """Whether %rax holds the number when the probed instruction begins."""
        return self.held_in == "rax" and self.held_at is None


DETOUR = 255


@dataclass(frozen=True)
class Sites:
    """What was found in a file."""

    sites: tuple[Site, ...]
    refused: tuple[tuple[int, str], ...]
    """Where in the file a `syscall` is that cannot be probed, or not on every way to it, and why."""
    other: tuple[tuple[int, str], ...]
    """Where in the file an instruction is that enters the kernel in another way: `int 0x80`, `sysenter`."""
    doubtful: tuple[tuple[int, str], ...] = ()
    """Where in the file the bytes of a `syscall` are that may be data, and why."""


def find_sites(file: Elf) -> Sites:
    """Find the system call sites of an ELF file; in the order of their offsets, a `syscall` that is jumped to has several."""
    code = Code(file)
    entrances = {address: name for address, name in _candidates(file) if code.is_instruction(address, name)}
    calls = [address for address, name in entrances.items() if name == "syscall"]
    code.connect(calls)
    sites: dict[int, list[Site]] = {}
    doubtful: list[tuple[int, str]] = []
    refused: list[tuple[int, str]] = []
    for address in calls:
        sites[address] = []
        for way in _ways(code, address):
            if isinstance(way, Site):
                sites[address].append(way)
            else:
                (doubtful if way == _MAY_BE_DATA else refused).append((file.offset(address), way))
    _join_detours(code, sites)
    other = (
        (file.offset(address), name) for address, name in entrances.items() if name != "syscall" and not code.may_be_data(address)
    )
    in_order = sorted((site for some in sites.values() for site in some), key=lambda site: site.offset)
    return Sites(tuple(in_order), tuple(sorted(refused)), tuple(sorted(other)), tuple(sorted(doubtful)))


def _candidates(file: Elf) -> Iterator[tuple[int, str]]:
    """Where the bytes of an entrance into the kernel are, be they an instruction or not."""
    for part in file.code:
        for match in _ENTRANCE.finditer(file.data, part.offset, part.offset + part.size):
            yield part.address + match.start() - part.offset, _ENTRANCES[match[0]]


class Instruction(NamedTuple):
    """An instruction, as it is written."""

    address: int
    size: int
    mnemonic: str
    operands: str

    @property
    def end(self) -> int:
        """Where the one behind it begins."""
        return self.address + self.size

    @property
    def name(self) -> str:
        """The mnemonic without prefixes (`notrack`, `bnd`, `rep`, `lock`)."""
        return self.mnemonic.rpartition(" ")[2]

    @property
    def goes_straight_on(self) -> bool:
        """Tell whether nothing but the instruction behind it can be the next."""
        if self.name in _UNSUITABLE or self.name in _NOT_STRAIGHT or self.mnemonic.startswith("rep"):
            return False
        return self.name[0] != "j" and not self.operands.startswith("ss,")  # after a change of %ss, signals are held back

    @property
    def target(self) -> int | None:
        """Where it jumps to; None: it does not jump, or to an address that it computes."""
        if self.operands.startswith("0x") and (self.name.startswith(("j", "loop"))):
            return int(self.operands, 16)
        return None


class Code:
    """The instructions around system calls, and how control gets from one to the next."""

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
        """Tell whether an instruction begins here, and is this one."""
        bounds = self.function(address)
        if bounds is not None and address - bounds[0] > _LONG:
            begin = self._meeting(address - _AROUND, bounds[0])
            if not any(one.address == address for one in self._decode(begin, address + 2)):
                return False
        instruction = self.instruction(address)
        return instruction is not None and f"{instruction.mnemonic} {instruction.operands}".strip() == text

    def instruction(self, address: int) -> Instruction | None:
        """Return the instruction that begins here; its function, or its chunk of code without functions, is read for it."""
        begin, end = self._bounds(address)
        outside = self.function(address) is None
        if (begin, outside) not in self._read:
            self._read.add((begin, outside))
            last: Instruction | None = None
            for one in self._decode(begin, end):
                if outside and self.function(one.address) is not None:  # described better than by its neighbours
                    last = self.instruction(one.address)
                    continue
                self._at[one.address] = one
                if last is not None and last.end == one.address:
                    self._before[one.address] = last
                if (target := one.target) is not None:
                    self._jumps[target].add(one.address)
                    if not begin <= target < end:
                        self._linked[begin].add(target)
                last = one
            if last is not None and outside and last.end == end:
                self._before[end] = last
        return self._at.get(address)

    def _bounds(self, address: int) -> tuple[int, int]:
        """Where the function that holds an address begins and ends; where none is known, a chunk of code."""
        function = self.function(address)
        if function is not None:
            return function
        part = self.file.part(address)
        if part is None:
            return address, address
        index = (address - part.address) // _CHUNK
        begin, end = (self._chunk(part, one) for one in (index, index + 1))
        if address >= end:  # an instruction that begins in the next chunk's part of the meeting
            return end, self._chunk(part, index + 2)
        return (begin, end) if address >= begin else (self._chunk(part, index - 1), begin)

    def _chunk(self, part: Range, index: int) -> int:
        """Where the first instruction of a chunk begins."""
        address = part.address + index * _CHUNK
        if address >= part.end:
            return part.end
        if address not in self._chunks:
            self._chunks[address] = self._meeting(address, part.address)
        return self._chunks[address]

    def _decode(self, begin: int, end: int) -> Iterator[Instruction]:
        return map(Instruction._make, self._decoder.disasm_lite(self.file.read(begin, end), begin))

    def _meeting(self, lowest: int, first: int) -> int:
        """Return where an instruction begins: at `first`, or above `lowest` where decodings from different bytes meet."""
        if lowest <= first:
            return first
        end = lowest + _TRIES + _MEETING
        code = self.file.read(lowest, end + 16)
        visits = Counter(
            address
            for skipped in range(_TRIES)
            for address, *_ in self._decoder.disasm_lite(code[skipped:], lowest + skipped)
            if address < end
        )
        return min((address for address, count in visits.items() if count >= _AGREED * _TRIES), default=lowest)

    def connect(self, calls: list[int]) -> None:
        """Learn of jumps into the functions of these calls from elsewhere: compilers put parts of functions far away."""
        if not calls:
            return
        bounds = sorted({self._bounds(address) for address in calls})
        begins = [begin for begin, _ in bounds]

        def leads_inside(source: int, target: int) -> bool:
            begin, end = bounds[bisect_right(begins, target) - 1]
            return begin <= target < end and not begin <= source < end and not self.begins_function(target)

        def learn(source: int, target: int) -> None:
            if leads_inside(source, target) and (jump := self.instruction(source)) is not None and jump.target == target:
                self._linked[bounds[bisect_right(begins, target) - 1][0]].add(source)

        pages = {page for begin, end in bounds for page in range(begin >> 8, (end >> 8) + 1)}
        for source, target in self.file.distances(_FAR_JUMP):
            if target >> 8 in pages:
                learn(source, target)
        for begin, end in bounds:
            for first, last in ((begin - _NEAR, begin), (end, end + _NEAR)):
                for match in _NEAR_JUMP.finditer(self.file.read(first, last)):
                    source = first + match.start()
                    learn(source, source + 2 + int.from_bytes(match[1], "little", signed=True))

    def into(self, address: int) -> list[Instruction]:
        """Return the instructions after which the one at this address can be the next."""
        before = self._previous(address)
        ways = [] if before is None or before.name in _ENDS or self._fills(before) else [before]
        return ways + [self._at[source] for source in sorted(self._jumps.get(address, ())) if self._at[source] not in ways]

    def _previous(self, address: int) -> Instruction | None:
        """The instruction in front of the one at this address, when both are of one function."""
        if address not in self._before and not self.begins_function(address):
            self.instruction(address - 1)  # a chunk's first instruction: the one before it is in the chunk before
        return self._before.get(address)

    def _fills(self, instruction: Instruction) -> bool:
        """Tell whether this is a no-operation between two functions or blocks that nothing leads to."""
        if instruction.name != "nop":
            return False
        last: Instruction | None = instruction
        for _ in range(_FILLING):
            if last is None or last.name in _ENDS:
                return True
            if last.name != "nop" or last.address in self._jumps or self.begins_function(last.address):
                return False
            last = self._previous(last.address)
        return False

    def may_be_data(self, address: int) -> bool:
        """Tell whether this is in no function of a file that knows its functions: a probe could change a table of constants.

        Functions that were written by hand may not be in the file's table, but somebody calls them.
        """
        if not self.file.knows_functions or self.function(address) is not None:
            return False
        return not any(self._leads_straight(start, address) for start in self._called_before(address))

    def _called_before(self, address: int) -> set[int]:
        """Where direct calls and jumps from functions lead to, in no function and not far before a place."""
        near = range(max(address - _LONG + 1, 0), address + 1)
        return {
            target
            for target in near
            if target in self._called and self.function(target) is None and any(map(self.function, self._called[target]))
        }

    @functools.cached_property
    def _called(self) -> dict[int, list[int]]:
        """Where direct calls and jumps lead to, and where the bytes of these are, be they instructions or not."""
        found: dict[int, list[int]] = defaultdict(list)
        for source, target in self.file.distances(_CALL):
            found[target].append(source)
        return dict(found)

    @functools.cached_property
    def _named(self) -> set[int]:
        """The addresses that have a name: of hand-written code, parts of functions are functions."""
        return {symbol.address for symbol in self.file.symbols()}

    def _leads_straight(self, start: int, address: int) -> bool:
        """Tell whether real instructions follow each other all the way from one place to another."""
        end = start
        for one in self._details.disasm(self.file.read(start, address), start):
            end = one.address + one.size
        return end == address

    def begins_function(self, address: int) -> bool:
        """Tell whether control gets here from a place that is not known."""
        bounds = self.function(address)
        return bounds is not None and bounds[0] == address

    def may_be_entered(self, address: int) -> bool:
        """Tell whether control may get here from a place that is not known, or by a call."""
        calls = any(self.file.read(at, at + 1) == _NEAR_CALL for at in self._called.get(address, ()))
        return calls or address in self._named or self.begins_function(address)

    def only_fills(self, instruction: Instruction) -> bool:
        """Tell whether this may be a no-operation that is not executed, behind a call that does not return."""
        last: Instruction | None = instruction
        while last is not None and last.name == "nop":
            last = self._previous(last.address)
        return instruction.name == "nop" and last is not None and last.name == "call"

    def computes_jumps(self, address: int) -> bool:
        """Tell whether the function that holds an address, or another part of it, jumps to where a table says.

        Parts of a function that lie far away (`.cold`) have descriptions of their own, and jumps between them lead inside.
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
        """Tell whether an instruction writes to a register."""
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


def _ways(code: Code, address: int) -> Iterator[Site | str]:
    """For each way to a system call its sites, or why there is none."""
    ways = code.into(address)
    if code.begins_function(address):
        yield "a function begins with it, so nothing is executed just before"
    elif not ways:
        yield "no instruction is known to lead to it"
    for last in ways:
        number = _number(code, last)
        early = () if number is None else _early_sites(code, last, address, number)
        yield from early or (_site(code, last, address, number),)


def _early_sites(code: Code, last: Instruction, address: int, number: int) -> tuple[Site, ...]:
    """The sites further ahead on the way to a system call that ends with this instruction.

    There are none if there is no need, or if there is another way to one of the instructions between them and the call.
    """
    if _is_emulated(code, last) or code.function(address) is None:  # elsewhere, nobody knows where functions begin
        return ()
    sites: list[Site] = []
    between = 0
    todo = [(last, address)]
    while todo:
        one, following = todo.pop()
        if _is_emulated(code, one):
            site = _early_site(code, one, following, address, number)
            if site is None:
                return ()
            sites.append(site)
            continue
        between += 1
        ways = code.into(one.address)
        too_far = between > _FAR or address - one.address > _FAR_BYTES or len(sites) + len(todo) + len(ways) > _MOST_BEGINNINGS
        if too_far or not ways or not one.goes_straight_on or code.may_be_entered(one.address):
            return ()
        if number == _MMAP and code.changes(one, "rdx"):  # the probe looks at the protection, too
            return ()
        todo += [(way, one.address) for way in ways]
    return () if code.computes_jumps(address) else tuple(sites)


def _join_detours(code: Code, sites: dict[int, list[Site]]) -> None:
    """Have the two places at which a C library makes the same call share one probe, where it has them for many calls."""
    straight: dict[int, tuple[int, Site]] = {}
    for address, some in sites.items():
        straight |= {site.offset: (address, site) for site in some if site.condition is not None and site.held_in is None}
    found: dict[int, dict[int, list[tuple[int, Site]]]] = defaultdict(dict)
    for address, some in sites.items():
        if len(some) != 1 or some[0].to_next is not None or (detour := _detour(code, address)) is None:
            continue
        jumps, begin, called = detour
        others = [(straight.get(code.file.offset(jump.address)), begin - jump.address) for jump in jumps]
        if all(
            other and other[0] != address and other[1].nr == some[0].nr and to_begin in _DISTANCES for other, to_begin in others
        ):
            found[called][address] = [(other[0], replace(other[1], detour=to_begin)) for other, to_begin in others if other]
    for joined in found.values():
        for address, both in joined.items() if len(joined) >= _OF_A_LIBRARY else ():
            sites[address] = []
            for other, site in both:
                sites[other] = [site if one.offset == site.offset else one for one in sites[other]]


def _detour(code: Code, address: int) -> tuple[list[Instruction], int, int] | None:
    """The jumps on conditions that lead to a system call by way of another call, where to, and where that call goes."""
    called = None
    at = address
    while address - at <= DETOUR and (at == address or not code.may_be_entered(at)):
        ways = code.into(at)
        if ways and all(_is_emulated(code, way) and _is_conditional(code, way) for way in ways):
            return None if called is None else (ways, at, called)
        if len(ways) != 1:
            return None
        (before,) = ways
        if before.name == "call":
            if called is not None or not before.operands.startswith("0x"):
                return None
            called = int(before.operands, 16)
        elif not before.goes_straight_on:
            return None
        at = before.address
    return None


def _is_conditional(code: Code, jump: Instruction) -> bool:
    return _CONDITIONAL.match(code.bytes_of(jump)) is not None


def _early_site(code: Code, one: Instruction, following: int, address: int, number: int) -> Site | None:
    """The site at an emulated instruction, from which control runs straight from the following one to a system call."""
    to_syscall, to_next = address - one.address, following - one.address
    too_far = to_syscall not in _DISTANCES or to_next not in _DISTANCES
    if too_far or code.function(one.address) is None or code.only_fills(one):
        return None
    condition = _condition(code, one, following)
    offset = code.file.offset(one.address)
    return Site(offset, to_syscall, number, None, None, None if following == address else to_next, condition)


def _is_emulated(code: Code, instruction: Instruction) -> bool:
    return _EMULATED.fullmatch(code.bytes_of(instruction)) is not None


def _condition(code: Code, instruction: Instruction, following: int) -> int | None:
    """The condition on which a jump leads to the instruction at an address, be it there or behind the jump."""
    opcode = _CONDITIONAL.match(code.bytes_of(instruction))
    if opcode is None or instruction.target == instruction.end:
        return None
    taken = opcode[0][-1] & 0x0F
    return taken if instruction.target == following else taken ^ 1


def _site(code: Code, last: Instruction, address: int, number: int | None) -> Site | str:
    """The site at the instruction just before a system call, or why it is none."""
    if (reason := _unsuitable(code, last)) is not None:
        return reason
    if code.may_be_data(address) and (number is None or number >= _NUMBERS):
        return _MAY_BE_DATA
    low = _LOW_BYTE.fullmatch(last.operands) if last.name == "mov" else None
    if number is None and low:
        number = int(low[1], 0)  # who is stopped there is asked for the rest of the register
    held_in: str | None = "rax"
    held_at = None
    if code.changes(last, "rax"):
        held_in = _copied_from(last)
        if number is None and held_in is None:
            held_in, held_at = _loaded_from(last)
            if held_in is None:
                return f"the instruction before it ({last.mnemonic} {last.operands}) computes the number"
    to_syscall = address - last.address
    return Site(code.file.offset(last.address), to_syscall, number, held_in, held_at, None, _condition(code, last, address))


def _unsuitable(code: Code, last: Instruction) -> str | None:
    """Why a probe on this instruction does not stop a thread before the one that follows; None: it does."""
    if last.name in _UNSUITABLE:
        return f"the instruction before it is {last.name}, after which a probe does not stop the thread here"
    if last.mnemonic.startswith("rep"):
        return "the instruction before it is repeated, and each round would be a stop"
    if last.name == "nop" and last.size == _SIZE_OF_CALL:  # Linux from 6.18 on does, and the thread would stop in what is called
        return "the instruction before it is a no-operation of 5 bytes, in whose place the kernel may put a call"
    beginning = code.bytes_of(last)
    prefixes = beginning[: len(beginning) - len(beginning.lstrip(_PREFIXES))]
    if last.name != "nop" and set(prefixes) & set(_REFUSED_PREFIXES):
        return f"the instruction before it ({last.mnemonic}) has a prefix that the kernel puts no probe on"
    return None


def _number(code: Code, last: Instruction) -> int | None:
    """The number in the lower half of %rax after this instruction, when it is the same on every way that leads to it."""
    numbers = numbers_in("rax", code, last)
    return numbers.pop() if numbers is not None and len(numbers) == 1 else None


def numbers_in(register: str, code: Code, last: Instruction) -> set[int] | None:
    """The numbers that may be in the lower half of a register after this instruction; None if the code does not tell."""
    numbers: set[int] = set()
    seen: set[tuple[int, str]] = set()
    todo = [(last, register)]
    while todo:
        instruction, register = todo.pop()
        if (instruction.address, register) in seen:
            continue
        seen.add((instruction.address, register))
        if code.changes(instruction, register):
            number = _constant(code, instruction)
            if number is not None:
                numbers.add(number)
                continue
            source = _copied_from(instruction)
            if source is None:
                return None
            register = source
        ways = code.into(instruction.address)
        if not ways or code.begins_function(instruction.address) or len(seen) > _STEPS:
            return None
        todo += [(way, register) for way in ways]
    return numbers


def _constant(code: Code, instruction: Instruction) -> int | None:
    """The number that this instruction puts into the register that it changes."""
    first = instruction.operands.partition(",")[0]
    if first not in _REGISTERS:
        return None
    if instruction.name in ("xor", "sub") and instruction.operands == f"{first}, {first}":
        return 0
    if instruction.name in ("mov", "movabs") and (match := _CONSTANT.fullmatch(instruction.operands)):
        return int(match[1], 0) & 0xFFFFFFFF
    return _pushed(code, instruction) if instruction.name == "pop" else None


def _pushed(code: Code, pop: Instruction) -> int | None:
    """The number that a pop takes from the stack, when it was pushed right before."""
    ways = code.into(pop.address)
    while len(ways) == 1 and not code.changes(ways[0], "rsp") and "sp" not in ways[0].operands:
        ways = code.into(ways[0].address)
    if len(ways) == 1 and ways[0].name == "push" and ways[0].operands[0] in "-0123456789":
        return int(ways[0].operands, 0) & 0xFFFFFFFF
    return None


def _copied_from(instruction: Instruction) -> str | None:
    """The register whose lower half this instruction copies to another."""
    match = _COPY.fullmatch(instruction.operands)
    first = instruction.operands.partition(",")[0]
    if match is None or first not in _REGISTERS or instruction.name not in ("mov", "movsxd"):
        return None
    return _REGISTERS.get(match[1])


def _loaded_from(instruction: Instruction) -> tuple[str | None, int]:
    """The register and the distance from it that this instruction loads a number from."""
    match = _LOAD.fullmatch(instruction.operands)
    if match is None or instruction.name != "mov" or match[1] not in _REGISTERS:
        return None, 0
    return match[2], int(match[3] + match[4], 0) if match[4] else 0
