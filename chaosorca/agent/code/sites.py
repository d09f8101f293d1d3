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

The bytes `0f 05` are searched first, and only the function around each of them is disassembled (code.py).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from chaosorca.agent.code.elf import Elf
from chaosorca.agent.code.instructions import UNSUITABLE, Code, Instruction, copied_from, loaded_from, numbers_in

_ENTRANCES = {b"\x0f\x05": "syscall", b"\xcd\x80": "int 0x80", b"\x0f\x34": "sysenter"}
_ENTRANCE = re.compile(b"|".join(map(re.escape, _ENTRANCES)))
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
_NUMBERS = 1024  # no system call has a higher one
_MAY_BE_DATA = "it belongs to no function and no number is set before it, so it may be data"
_LOW_BYTE = re.compile(r"al, (0x[0-9a-f]+|\d+)")


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
            address = part.address + match.start() - part.offset
            if not any(address in table for table in file.linkage):
                yield address, _ENTRANCES[match[0]]


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
        held_in = copied_from(last)
        if number is None and held_in is None:
            held_in, held_at = loaded_from(last)
            if held_in is None:
                return f"the instruction before it ({last.mnemonic} {last.operands}) computes the number"
    to_syscall = address - last.address
    return Site(code.file.offset(last.address), to_syscall, number, held_in, held_at, None, _condition(code, last, address))


def _unsuitable(code: Code, last: Instruction) -> str | None:
    """Why a probe on this instruction does not stop a thread before the one that follows; None: it does."""
    if last.name in UNSUITABLE:
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
