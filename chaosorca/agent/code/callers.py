"""Finds the system calls that a program or library for x86-64 makes through the C library's function `syscall()`.

A uprobe on that function fires at every call of the function, whatever the system call's number. Such a uprobe is expensive, since
the kernel emulates none of the function's instructions. The uprobe is needed only if a program may make a faulted call through
this function. Nearly all callers set the number just before the call. For example, nginx calls `gettid` in this way for each line
of its log.
"""

from __future__ import annotations

import re

from chaosorca.agent.code.dataflow import numbers_in
from chaosorca.agent.code.elf import Elf
from chaosorca.agent.code.instructions import Code

_NAME = b"syscall"
_WHOLE_NAME = b"\0syscall\0"
_CALLS_ANYTHING = {b"ffi_call"}  # libffi calls arbitrary functions for its users
_FILLED_IN = {6, 7}  # R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT: the relocation types of table entries
_BEFORE_A_JUMP = (b"", b"\xf2", b"\xf3\x0f\x1e\xfa", b"\xf3\x0f\x1e\xfa\xf2")  # bnd, endbr64
# Each pattern begins with a fixed byte, since this makes the search many times faster. So no pattern contains the REX prefix.
_BY_TABLE = re.compile(rb"(?s)\xff[\x15\x25](?=....)")  # call, jmp *n(%rip)
_TAKEN_FROM_TABLE = (
    re.compile(rb"(?s)\x8b[\x05\x0d\x15\x1d\x25\x2d\x35\x3d](?=....)"),  # mov
    re.compile(rb"(?s)\xff\x35(?=....)"),  # push
)
_ADDRESS_TAKEN = re.compile(rb"(?s)\x8d[\x05\x0d\x15\x1d\x25\x2d\x35\x3d](?=....)")  # lea
_LARGEST = 32 << 20


def syscall_function(file: Elf) -> range:
    """Return the offsets of the function `syscall` in a file; empty if the file does not export the function."""
    for symbol in file.symbols(dynamic_only=True):
        if symbol.name == _NAME and symbol.is_defined and (bounds := file.function(symbol.address)):
            return range(file.offset(bounds[0]), file.offset(bounds[1] - 1) + 1)
    return range(0)


def numbers_passed(file: Elf) -> frozenset[int] | None:
    """Return the numbers that a file's code passes to `syscall`; None if they are unknown.

    The result is empty if the file does not call the function. It is also empty for C libraries themselves. A program that looks
    the function up at run time contains the function's name as a constant. In this case, the numbers are unknown.
    """
    tables = [range(one.offset, one.offset + one.size) for one in file.sections() if one.holds_strings]
    for match in re.finditer(re.escape(_WHOLE_NAME), file.data):
        if not any(match.start() in table for table in tables):
            return None
    symbols = list(file.symbols(dynamic_only=True))
    if any(one.name in _CALLS_ANYTHING and one.is_defined for one in symbols):
        return None
    imported = [one for one in symbols if one.name == _NAME and not one.is_defined]
    if not imported:
        return frozenset()
    if len(file.data) > _LARGEST or not file.describes_functions or any(one.address for one in imported):
        return None
    slots = set()
    for address, how, symbol in file.relocations():
        if symbol.name == _NAME:
            if how not in _FILLED_IN:
                return None
            slots.add(address)
    entries: set[int] = set()
    callers: list[int] = []
    for address, target in file.distances(_BY_TABLE):
        if target not in slots:
            continue
        if any(address in part for part in file.linkage):
            entries |= {address - len(before) for before in _BEFORE_A_JUMP if file.read(address - len(before), address) == before}
        else:
            callers.append(address)
    if any(target in slots for pattern in _TAKEN_FROM_TABLE for _, target in file.distances(pattern)):
        return None
    if entries and any(target in entries for _, target in file.distances(_ADDRESS_TAKEN)):
        return None
    callers += [
        address
        for _, address, target in (file.branches if entries else ())
        if target in entries and not any(address in part for part in file.linkage)
    ]
    return _passed_by(callers, file)


def _passed_by(callers: list[int], file: Elf) -> frozenset[int] | None:
    code = Code(file)
    code.connect(callers)
    passed: set[int] = set()
    for address in callers:
        if code.instruction(address) is None:
            continue  # these bytes are not an instruction
        before = code.into(address)
        if not before or code.begins_function(address):
            return None
        for last in before:
            numbers = numbers_in("rdi", code, last)
            if numbers is None:
                return None
            passed |= numbers
    return frozenset(passed)
