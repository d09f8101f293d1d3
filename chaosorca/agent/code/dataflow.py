"""Finds the numbers that code for x86-64 loads into registers."""

from __future__ import annotations

import re

from chaosorca.agent.code.instructions import REGISTERS, Code, Instruction

_STEPS = 4096  # the most instructions that are searched for one number

_CONSTANT = re.compile(r"\w+, (-?(?:0x)?[0-9a-f]+)")
_COPY = re.compile(r"\w+, (\w+)")
_LOAD = re.compile(r"(\w+), [dq]word ptr \[(r(?!ip)\w+)(?: ([+-]) ((?:0x)?[0-9a-f]+))?\]")


def numbers_in(register: str, code: Code, last: Instruction) -> set[int] | None:
    """Return the possible numbers in the lower half of a register after an instruction; None if they are unknown."""
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
            source = copied_from(instruction)
            if source is None:
                return None
            register = source
        before = code.into(instruction.address)
        if not before or code.begins_function(instruction.address) or len(seen) > _STEPS:
            return None
        todo += [(one, register) for one in before]
    return numbers


def _constant(code: Code, instruction: Instruction) -> int | None:
    """Return the constant that an instruction loads into a register; None if it does not load a constant."""
    first = instruction.operands.partition(",")[0]
    if first not in REGISTERS:
        return None
    if instruction.name in ("xor", "sub") and instruction.operands == f"{first}, {first}":
        return 0
    if instruction.name in ("mov", "movabs") and (match := _CONSTANT.fullmatch(instruction.operands)):
        return int(match[1], 0) & 0xFFFFFFFF
    return _pushed(code, instruction) if instruction.name == "pop" else None


def _pushed(code: Code, pop: Instruction) -> int | None:
    """Return the number that a `pop` loads, if a `push` just before it pushes a constant; None otherwise."""
    before = code.into(pop.address)
    while len(before) == 1 and not code.changes(before[0], "rsp") and "sp" not in before[0].operands:
        before = code.into(before[0].address)
    if len(before) == 1 and before[0].name == "push" and before[0].operands[0] in "-0123456789":
        return int(before[0].operands, 0) & 0xFFFFFFFF
    return None


def copied_from(instruction: Instruction) -> str | None:
    """Return the register whose lower half an instruction copies to another register; None for other instructions."""
    match = _COPY.fullmatch(instruction.operands)
    first = instruction.operands.partition(",")[0]
    if match is None or first not in REGISTERS or instruction.name not in ("mov", "movsxd"):
        return None
    return REGISTERS.get(match[1])


def loaded_from(instruction: Instruction) -> tuple[str | None, int]:
    """Return the address register and the displacement of the memory operand from which an instruction loads a number.

    Return None and 0 if the instruction does not load a number from memory.
    """
    match = _LOAD.fullmatch(instruction.operands)
    if match is None or instruction.name != "mov" or match[1] not in REGISTERS:
        return None, 0
    return match[2], int(match[3] + match[4], 0) if match[4] else 0
