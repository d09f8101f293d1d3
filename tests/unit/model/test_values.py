"""Numbers and booleans that arrive as text."""

from __future__ import annotations

import pytest

from chaosorca.model.errors import InvalidArgument
from chaosorca.model.values import as_bool, as_int, as_number


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(value, True) for value in (True, "true", "True", "TRUE", "1", 1, "yes", "Yes")],
        *[(value, False) for value in (False, "false", "False", "FALSE", "0", 0, "no", "No")],
    ],
)
def test_a_boolean_may_be_text(value: object, expected: bool) -> None:
    assert as_bool(value, "keep") is expected


@pytest.mark.parametrize("value", [None, "", " ", "maybe", "on", "off", "y", "n", "2", 2, -1, 0.5, [], ["true"], {}, "${keep}"])
def test_an_invalid_boolean_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgument, match=r"^keep .* is not a boolean: give true or false$"):
        as_bool(value, "keep")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, 0.0), (1, 1.0), (0.1, 0.1), ("0.1", 0.1), ("1", 1.0), ("0", 0.0), (" 0.5 ", 0.5), ("1e-3", 0.001)],
)
def test_a_number_may_be_text(value: object, expected: float) -> None:
    assert as_number(value, "probability", 0, 1) == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (-0.1, "is not between 0 and 1"),
        (1.1, "is not between 0 and 1"),
        ("2", "is not between 0 and 1"),
        ("nan", "is not between 0 and 1"),
        ("inf", "is not between 0 and 1"),
        ("-inf", "is not between 0 and 1"),
        (float("nan"), "is not between 0 and 1"),
        (True, "is not a number"),
        (False, "is not a number"),
        (None, "is not a number"),
        ("", "is not a number"),
        ("a half", "is not a number"),
        ("0,5", "is not a number"),
        ("50%", "is not a number"),
        ([], "is not a number"),
    ],
)
def test_an_invalid_number_is_refused(value: object, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^probability .*{reason}"):
        as_number(value, "probability", 0, 1)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (9090, 9090), ("9090", 9090), ("0", 0), (9090.0, 9090), (65535, 65535)])
def test_a_whole_number_may_be_text(value: object, expected: int) -> None:
    result = as_int(value, "port", 0, 65535)
    assert (result, type(result)) == (expected, int)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1.5, "is not a whole number"),
        ("1.5", "is not a whole number"),
        (-1, "is not between 0 and 65535"),
        ("65536", "is not between 0 and 65535"),
        ("inf", "is not between 0 and 65535"),
        ("nan", "is not between 0 and 65535"),
        (True, "is not a number"),
        (None, "is not a number"),
        ("http", "is not a number"),
        ("0x50", "is not a number"),
    ],
)
def test_an_invalid_whole_number_is_refused(value: object, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^port .*{reason}"):
        as_int(value, "port", 0, 65535)
