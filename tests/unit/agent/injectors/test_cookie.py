"""The bits of a uprobe's cookie."""

from __future__ import annotations

import pytest

pytest.importorskip("capstone")

from chaosorca.agent.code.binaries import FileCode
from chaosorca.agent.code.sites import Site
from chaosorca.agent.injectors.cookie import ANY_NR, UNKNOWN_NR, cookie_of, group_of


@pytest.mark.parametrize(
    ("site", "number", "way", "register", "memory"),
    [
        (Site(0, 5, 257, None), 257, 5, 0, None),
        (Site(0, 2, None, "rax"), 0xFFFF, 2, 0, None),
        (Site(0, 3, None, "r9"), 0xFFFF, 3, 8, None),
        (Site(0, -7, None, "rbx"), 0xFFFF, 0xFFF9, 1, None),
        (Site(0, 5, None, "rsp", held_at=8), 0xFFFF, 5, 15, 8),
        (Site(0, 5, None, "rsp", held_at=-8), 0xFFFF, 5, 15, 0xFFF8),
    ],
)
def test_the_cookie_of_a_probe_just_before_the_call(site: Site, number: int, way: int, register: int, memory: int | None) -> None:
    cookie = cookie_of(site)
    assert (cookie & 0xFFFF, cookie >> 16 & 0xFFFF, cookie >> 32 & 0xFF) == (number, way, register)
    assert (cookie >> 40 & 0xFFFF if cookie >> 60 & 1 else None) == memory
    assert cookie >> 61 == 0


@pytest.mark.parametrize(
    ("site", "way", "next_way", "condition"),
    [
        (Site(0, 12, 257, None, to_next=2), 12, 2, None),
        (Site(0, -100, 257, None, to_next=-112, condition=5), 0xFF9C, 0xFF90, 5),
        (Site(0, 12, 257, None, condition=0), 12, None, 0),
    ],
)
def test_the_cookie_of_a_probe_before_the_last_instruction(
    site: Site, way: int, next_way: int | None, condition: int | None
) -> None:
    cookie = cookie_of(site)
    assert (cookie & 0xFFFF, cookie >> 16 & 0xFFFF) == (257, way)
    assert (cookie >> 32 & 0xFFFF if cookie >> 61 & 1 else None) == next_way
    assert (cookie >> 56 & 15 if cookie >> 62 & 1 else None) == condition
    assert not cookie >> 60 & 1 and cookie < 2**63


@pytest.mark.parametrize(
    ("site", "near", "far", "straight_is_far"),
    [
        (Site(0, 12, 0, None, to_next=2, condition=5, detour=25), 2, 25, 0),
        (Site(0, 6, 0, None, condition=5, detour=-300), 6, 0x10000 - 300, 0),
        (Site(0, -92, 0, None, to_next=-107, condition=5, detour=2), 2, 0x10000 - 107, 1),
        (Site(0, 400, 0, None, to_next=300, condition=5, detour=6), 6, 300, 1),
    ],
)
def test_the_cookie_of_a_jump_with_a_detour(site: Site, near: int, far: int, straight_is_far: int) -> None:
    cookie = cookie_of(site)
    assert (cookie >> 16 & 0xFFFF, cookie >> 48 & 0xFF, cookie >> 32 & 0xFFFF) == (site.to_syscall & 0xFFFF, near, far)
    assert (cookie >> 56 & 15, cookie >> 60) == (5, 8 | straight_is_far << 1)


def test_a_sites_group_is_its_number_or_why_it_has_none() -> None:
    code = FileCode((), "", None, range(100, 120))
    sites = [Site(110, 5, 257), Site(110, 5, None), Site(120, 5, None)]
    assert [group_of(site, code) for site in sites] == [257, ANY_NR, UNKNOWN_NR]
