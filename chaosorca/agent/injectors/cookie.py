"""The cookie of a uprobe: 64 bits that describe a site to bpf/arm.c. That file documents the bits."""

from __future__ import annotations

from chaosorca.agent.code.binaries import FileCode
from chaosorca.agent.code.sites import Site

UNKNOWN_NR = 0xFFFF
"""The number in the cookie of a site whose system call number is unknown."""

ANY_NR = 0x10000
"""The group of the sites in the C library's function `syscall()`, which makes any system call."""

_REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *(f"r{number}" for number in range(8, 16)), "rsp")
_IN_MEMORY, _IS_EARLY, _HAS_CONDITION, _HAS_DETOUR = 1 << 60, 1 << 61, 1 << 62, 1 << 63


def number_of(site: Site) -> int:
    """Return the number of a site's system call; `UNKNOWN_NR` if it is unknown."""
    return UNKNOWN_NR if site.nr is None else site.nr


def group_of(site: Site, code: FileCode) -> int:
    """Return the group of a site: its system call number, `UNKNOWN_NR` or `ANY_NR`. All sites of a group are probed together."""
    return ANY_NR if site.nr is None and site.offset in code.syscall_function else number_of(site)


def cookie_of(site: Site) -> int:
    """Return the cookie of a site's uprobe."""
    cookie = number_of(site) | (site.to_syscall & 0xFFFF) << 16
    if site.detour is not None and site.condition is not None:
        begin, detour = site.to_syscall if site.to_next is None else site.to_next, site.detour
        is_far = begin not in range(0x100)  # either `begin` or `detour` is just after the uprobe
        near, far = (detour, begin) if is_far else (begin, detour)
        cookie |= _IS_EARLY if is_far else 0
        return cookie | (far & 0xFFFF) << 32 | near << 48 | site.condition << 56 | _HAS_DETOUR
    if site.condition is not None:
        cookie |= site.condition << 56 | _HAS_CONDITION
    if site.to_next is not None:
        return cookie | (site.to_next & 0xFFFF) << 32 | _IS_EARLY
    if site.nr is None and site.held_in:
        cookie |= _REGISTERS.index(site.held_in) << 32
    return cookie if site.held_at is None else cookie | (site.held_at & 0xFFFF) << 40 | _IN_MEMORY
