"""Finds the breakpoint sites of a program or library for x86-64: instructions for uprobes, shortly before system calls.

A uprobe on `syscall` itself is too late. The kernel delays signals while it single-steps a probed instruction, so the thread would
stop after the call. A uprobe on the preceding instruction stops the thread while its instruction pointer is on `syscall`.

The kernel emulates a few kinds of probed instructions: jumps, pushes and no-operations. It single-steps all other instructions,
which takes 30 times as long. If control runs straight from an earlier, emulated instruction to the call, the emulated instruction
is the site.

glibc has two paths to most calls that may block. The first path is for processes that never had a second thread. The second path
calls a function before its `syscall`, so control does not run straight to that `syscall`. A uprobe on the branch between the paths
serves both. A call that is to fail is stopped at the branch and resumed just after the first path's `syscall`. On both paths, the
program sees the same result.

Only the functions around the bytes `0f 05` are disassembled (instructions.py).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from chaosorca.agent.code.dataflow import copied_from, loaded_from, numbers_in
from chaosorca.agent.code.elf import Elf
from chaosorca.agent.code.instructions import UNSUITABLE, Code, Instruction

_ENTRANCES = {b"\x0f\x05": "syscall", b"\xcd\x80": "int 0x80", b"\x0f\x34": "sysenter"}
_ENTRANCE = re.compile(b"|".join(map(re.escape, _ENTRANCES)))
_EMULATED = re.compile(
    # jmp, jcc and push without a prefix. The kernel single-steps jumps with a prefix, and processors handle these differently.
    rb"(?s)\xeb.|\xe9....|[\x70-\x7f].|\x0f[\x80-\x8f]....|\x41?[\x50-\x57]|"
    # nop, except the nop of 5 bytes, which is unsuitable.
    rb"\x66*\x90|\x0f\x1f\x00|\x0f\x1f\x40\x00|\x66\x0f\x1f\x44\x00\x00|\x0f\x1f[\x80\x84]\x00{4,5}"
)
_CONDITIONAL = re.compile(rb"[\x26\x2e\x36\x3e\x40-\x4f\x64-\x67\xf2\xf3]*(?:[\x70-\x7f]|\x0f[\x80-\x8f])")
_SIZE_OF_CALL = 5
_FAR = 16  # the most instructions between an emulated instruction and the call
_FAR_BYTES = 64  # the most bytes between an emulated instruction and the call
_MOST_SITES = 8  # the most sites of one system call
_OF_A_LIBRARY = 8  # the fewest detours that call the same function; only C libraries have so many
_DISTANCES = range(-0x8000, 0x8000)
_MMAP = 9
_PREFIXES = b"\x26\x2e\x36\x3e\xf0\x64\x65\x66\x67\xf2\xf3"
_REFUSED_PREFIXES = b"\x26\x2e\x36\x3e\xf0"  # segment overrides, lock
_NUMBERS = 1024  # every system call has a lower number
_MAY_BE_DATA = "it belongs to no function and no number is set before it, so it may be data"
_LOW_BYTE = re.compile(r"al, (0x[0-9a-f]+|\d+)")


@dataclass(frozen=True)
class Site:
    """An instruction for a uprobe.

    When a thread has stopped, its instruction pointer is `to_next` bytes from the uprobe. From there, control runs straight to the
    `syscall`. If `condition` does not hold, the probed instruction leads elsewhere, and the thread makes no system call. A `loop`
    or `jrcxz` may lead elsewhere although its site has no condition. The thread then stops elsewhere.

    Two sites have the same offset if both branches of a conditional jump lead to a call.
    """

    offset: int
    """The instruction's offset in the file."""
    to_syscall: int
    """The distance from the instruction to `syscall` in bytes; negative if the instruction jumps backwards."""
    nr: int | None
    """The system call's number; None if unknown."""
    held_in: str | None = "rax"
    """The register whose lower half holds the number when the instruction begins. None if this or a later instruction loads it."""
    held_at: int | None = None
    """If not None, the register `held_in` holds an address. The number is in the 4 bytes at this displacement from the address."""
    to_next: int | None = None
    """The distance in bytes from the uprobe to a stopped thread's instruction pointer. None if the pointer is on the `syscall`."""
    condition: int | None = None
    """Control reaches the call only if this condition holds when the instruction begins. None if control always reaches the call.
    Condition codes range from 0 to 15, as in the low four bits of the opcode of `jcc` (Intel SDM, appendix B.1.4.7)."""
    detour: int | None = None
    """The distance in bytes from the uprobe to the next instruction if the condition does not hold. From there, the thread reaches
    another `syscall` of the same call, at most `DETOUR` bytes away. None if the site has no such detour."""

    @property
    def rax_is_set(self) -> bool:
        """Whether %rax holds the number when the instruction begins."""
        return self.held_in == "rax" and self.held_at is None


DETOUR = 255


@dataclass(frozen=True)
class Sites:
    """The instructions by which a file's code enters the kernel. All offsets are file offsets."""

    sites: tuple[Site, ...]
    refused: tuple[tuple[int, str], ...]
    """Each `syscall` that can be reached without passing a site: its offset, and the reason."""
    other: tuple[tuple[int, str], ...]
    """The offset of each instruction that enters the kernel in another way, and its name: `int 0x80` or `sysenter`."""
    doubtful: tuple[tuple[int, str], ...] = ()
    """Each apparent `syscall` that may be data: its offset, and the reason."""


def find_sites(file: Elf) -> Sites:
    """Return the sites of an ELF file, sorted by offset. A `syscall` with several paths to it has several sites."""
    code = Code(file)
    entrances = {address: name for address, name in _candidates(file) if code.is_instruction(address, name)}
    calls = [address for address, name in entrances.items() if name == "syscall"]
    code.connect(calls)
    sites: dict[int, list[Site]] = {}
    doubtful: list[tuple[int, str]] = []
    refused: list[tuple[int, str]] = []
    for address in calls:
        sites[address] = []
        for found in _sites(code, address):
            if isinstance(found, Site):
                sites[address].append(found)
            else:
                (doubtful if found == _MAY_BE_DATA else refused).append((file.offset(address), found))
    _join_detours(code, sites)
    other = (
        (file.offset(address), name) for address, name in entrances.items() if name != "syscall" and not code.may_be_data(address)
    )
    in_order = sorted((site for some in sites.values() for site in some), key=lambda site: site.offset)
    return Sites(tuple(in_order), tuple(sorted(refused)), tuple(sorted(other)), tuple(sorted(doubtful)))


def _candidates(file: Elf) -> Iterator[tuple[int, str]]:
    """Yield the address and the name of each apparent instruction that enters the kernel."""
    for part in file.code:
        for match in _ENTRANCE.finditer(file.data, part.offset, part.offset + part.size):
            address = part.address + match.start() - part.offset
            if not any(address in table for table in file.linkage):
                yield address, _ENTRANCES[match[0]]


def _sites(code: Code, address: int) -> Iterator[Site | str]:
    """Yield the sites on each path to a system call. For a path without a site, yield the reason why the path has none."""
    before = code.into(address)
    if code.begins_function(address):
        yield "a function begins with it, so no instruction before it is known"
    elif not before:
        yield "no instruction before it is known"
    for last in before:
        number = _number(code, last)
        early = () if number is None else _early_sites(code, last, address, number)
        yield from early or (_site(code, last, address, number),)


def _early_sites(code: Code, last: Instruction, address: int, number: int) -> tuple[Site, ...]:
    """Return the earlier sites on the paths that lead through the instruction `last` to a system call.

    The result is empty if `last` itself is emulated, or if other code may jump between the sites and the call.
    """
    if _is_emulated(code, last) or code.function(address) is None:  # outside functions, other code may jump anywhere
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
        before = code.into(one.address)
        too_far = between > _FAR or address - one.address > _FAR_BYTES or len(sites) + len(todo) + len(before) > _MOST_SITES
        if too_far or not before or not one.goes_straight_on or code.may_be_entered(one.address):
            return ()
        if number == _MMAP and code.changes(one, "rdx"):  # the uprobe also reads the protection from %rdx
            return ()
        todo += [(previous, one.address) for previous in before]
    return () if code.computes_jumps(address) else tuple(sites)


def _join_detours(code: Code, sites: dict[int, list[Site]]) -> None:
    """If two paths lead to the same call, join their sites into one.

    Sites are joined only in C libraries, which have two paths to many calls.
    """
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
    """Return the detour to a system call; None if there is none.

    The result consists of the conditional jumps to the detour, their target, and the function that the detour calls.
    """
    called = None
    at = address
    while address - at <= DETOUR and (at == address or not code.may_be_entered(at)):
        paths = code.into(at)
        if paths and all(_is_emulated(code, one) and _is_conditional(code, one) for one in paths):
            return None if called is None else (paths, at, called)
        if len(paths) != 1:
            return None
        (before,) = paths
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
    """Return the site at an emulated instruction that leads to `following`; None if the instruction is unsuitable.

    From `following`, control runs straight to a system call.
    """
    to_syscall, to_next = address - one.address, following - one.address
    too_far = to_syscall not in _DISTANCES or to_next not in _DISTANCES
    if too_far or code.function(one.address) is None or code.may_be_padding(one):
        return None
    condition = _condition(code, one, following)
    offset = code.file.offset(one.address)
    return Site(offset, to_syscall, number, None, None, None if following == address else to_next, condition)


def _is_emulated(code: Code, instruction: Instruction) -> bool:
    return _EMULATED.fullmatch(code.bytes_of(instruction)) is not None


def _condition(code: Code, instruction: Instruction, following: int) -> int | None:
    """Return the condition under which an instruction leads to `following`; None if it always leads there."""
    opcode = _CONDITIONAL.match(code.bytes_of(instruction))
    if opcode is None or instruction.target == instruction.end:
        return None
    taken = opcode[0][-1] & 0x0F
    return taken if instruction.target == following else taken ^ 1


def _site(code: Code, last: Instruction, address: int, number: int | None) -> Site | str:
    """Return the site at the instruction just before a system call, or the reason why the instruction cannot be a site."""
    if (reason := _unsuitable(code, last)) is not None:
        return reason
    if code.may_be_data(address) and (number is None or number >= _NUMBERS):
        return _MAY_BE_DATA
    low = _LOW_BYTE.fullmatch(last.operands) if last.name == "mov" else None
    if number is None and low:
        number = int(low[1], 0)  # the tracer reads the rest of the register when the thread stops
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
    """Return why a uprobe on an instruction cannot stop a thread before the next instruction; None if the uprobe can."""
    if last.name in UNSUITABLE:
        return f"the instruction before it is {last.name}, after which a uprobe does not stop the thread"
    if last.mnemonic.startswith("rep"):
        return "the instruction before it has a repeat prefix, and each repetition would be a stop"
    if last.name == "nop" and last.size == _SIZE_OF_CALL:
        # Linux 6.18 and later replace this nop by a call, and the thread would stop in the callee.
        return "the instruction before it is a no-operation of 5 bytes, which the kernel may replace by a call"
    beginning = code.bytes_of(last)
    prefixes = beginning[: len(beginning) - len(beginning.lstrip(_PREFIXES))]
    if last.name != "nop" and set(prefixes) & set(_REFUSED_PREFIXES):
        return f"the instruction before it ({last.mnemonic}) has a prefix, and the kernel refuses uprobes with that prefix"
    return None


def _number(code: Code, last: Instruction) -> int | None:
    """Return the number in the lower half of %rax after an instruction; None if the number is unknown or differs between paths."""
    numbers = numbers_in("rax", code, last)
    return numbers.pop() if numbers is not None and len(numbers) == 1 else None
