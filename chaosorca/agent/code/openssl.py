"""Finds the sites for uprobes in an OpenSSL library for x86-64, with their cookies for bpf/tls.c.

A uprobe on the first instruction of SSL_read is expensive, because the kernel single-steps nearly all instructions. The kernel
emulates only a few kinds of instructions, such as pushes. Single-stepping an instruction takes 30 times as long as emulating one.

SSL_read and SSL_read_ex are a few instructions long, and pass all of their arguments to a common function. SSL_write and
SSL_write_ex do the same with another common function. If the code of a pair proves this, and the common function begins with a
push, then the common function gets the uprobe in place of the pair.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import capstone
from capstone import x86

from chaosorca.agent.code.elf import Elf

WRITES, LENGTH_APART, IS_FREE, IS_HANDSHAKE = 1, 2, 4, 8
"""The bits of a cookie; see bpf/tls.c."""

_PAIRS = ((b"SSL_read", b"SSL_read_ex", 0), (b"SSL_write", b"SSL_write_ex", WRITES))
_OTHERS = {b"SSL_free": IS_FREE, b"SSL_do_handshake": IS_HANDSHAKE}
_NAMES = {name for one, other, _ in _PAIRS for name in (one, other)} | _OTHERS.keys()
_LONGEST = 32  # the most instructions of a function that are disassembled
_PUSH = re.compile(rb"(?:\x41)?[\x50-\x57]")
_ARGUMENTS = {"rdi", "edi", "di", "dil", "rsi", "esi", "si", "sil", "rdx", "edx", "dx", "dl", "dh", "rcx", "ecx", "cx", "cl", "ch"}


@dataclass(frozen=True)
class Place:
    """The site of a uprobe.

    Attributes:
        offset: the site's offset in the file.
        cookie: the cookie of the uprobe.
        returns: whether the function also needs a uprobe at its return.
    """

    offset: int
    cookie: int
    returns: bool


def places(elf: Elf) -> list[Place]:
    """Return the sites of a library; empty if it exports none of OpenSSL's functions for reading and writing."""
    found = {one.name: one.address for one in elf.symbols(dynamic_only=True) if one.is_defined and one.name in _NAMES}
    chosen: list[Place] = []
    for plain, extended, cookie in _PAIRS:
        common = _common(elf, found[plain], found[extended]) if plain in found and extended in found else None
        if common is not None:
            chosen.append(Place(elf.offset(common), cookie | LENGTH_APART, True))
            continue
        if plain in found:
            chosen.append(Place(elf.offset(found[plain]), cookie, True))
        if extended in found:
            chosen.append(Place(elf.offset(found[extended]), cookie | LENGTH_APART, True))
    if not chosen:
        return []
    return chosen + [Place(elf.offset(found[name]), cookie, False) for name, cookie in _OTHERS.items() if name in found]


def _common(elf: Elf, plain: int, extended: int) -> int | None:
    """Return the common function of a pair; None if the pair has none.

    Both functions call the common function. In the extended function, this call is the first one, and the arguments are unchanged.
    """
    called = _first_call(elf, extended)
    if called is None or called not in _calls(elf, plain):
        return None
    bounds = elf.function(called)
    begins = elf.read(called, called + 2)
    return called if bounds is not None and bounds[0] == called and _PUSH.match(begins) else None


def _first_call(elf: Elf, function: int) -> int | None:
    """Return the address that a function calls first, if it passes on all of its arguments unchanged; None otherwise."""
    for one in _instructions(elf, function):
        if one.mnemonic == "call":
            return _target(one)
        if one.mnemonic.startswith(("j", "ret")) or not _ARGUMENTS.isdisjoint(map(one.reg_name, one.regs_access()[1])):
            return None
    return None


def _calls(elf: Elf, function: int) -> set[int | None]:
    return {_target(one) for one in _instructions(elf, function) if one.mnemonic == "call"}


def _instructions(elf: Elf, function: int) -> Iterator[capstone.CsInsn]:
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    _, end = elf.function(function) or (0, function + 15 * _LONGEST)
    yield from decoder.disasm(elf.read(function, end), function, _LONGEST)


def _target(call: capstone.CsInsn) -> int | None:
    operand = call.operands[0]
    return int(operand.imm) if operand.type == x86.X86_OP_IMM else None
