"""Lists of HTTP codes and classes."""

from __future__ import annotations

import re

import pytest

from chaosorca.model.errors import InvalidArgument
from chaosorca.model.status import status_regex


@pytest.mark.parametrize(
    ("status", "matched", "not_matched"),
    [
        ("200", ["200"], ["201", "20", "2000", "none"]),
        (404, ["404"], ["403", "none"]),
        ("4xx", ["400", "404", "499"], ["500", "399", "40", "4000", "none"]),
        ("5XX", ["500", "503"], ["400"]),
        ("none", ["none"], ["200", "500"]),
        ("NONE", ["none"], ["200"]),
        ("5xx,none", ["500", "599", "none"], ["200", "404"]),
        ("4xx,5xx,none", ["400", "500", "none"], ["200", "302"]),
        (" 200 , 201 ", ["200", "201"], ["202", "200,201"]),
        ("599", ["599"], ["59"]),
        ("1xx", ["100", "101"], ["200"]),
    ],
)
def test_a_list_matches_its_codes_and_no_other(status: object, matched: list[str], not_matched: list[str]) -> None:
    regex = status_regex(status)
    assert [code for code in matched + not_matched if re.fullmatch(regex, code)] == matched


@pytest.mark.parametrize(
    "status",
    [
        "",
        " ",
        ",",
        "200,",
        ",200",
        "200,,201",
        "20",
        "2000",
        "099",
        "0xx",
        "000",
        "xxx",
        "2x",
        "2xxx",
        "20x",
        "x00",
        "2..",
        ".*",
        "200|201",
        "200-299",
        "200;201",
        "200 201",
        ">=500",
        "ok",
        "None!",
        "nonee",
        "600",
        "6xx",
        "999",
        "-200",
        "2\u0660\u0660",
        0,
        99,
        1000,
        -200,
        200.0,
        True,
        False,
        None,
        [],
        ["200"],
        {"code": 200},
    ],
)
def test_an_invalid_list_of_codes_is_refused_with_an_example(status: object) -> None:
    with pytest.raises(InvalidArgument, match=r"write it as in '200' or '4xx,5xx,none'$"):
        status_regex(status)
