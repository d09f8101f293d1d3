"""strace's `when` expressions."""

from __future__ import annotations

import pytest

from chaosorca.model.errors import InvalidArgument
from chaosorca.model.when import LARGEST, check_when


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1", "1"),
        ("3", "3"),
        ("65535", "65535"),
        ("1+", "1+"),
        ("3+", "3+"),
        ("65535+", "65535+"),
        ("1+1", "1+1"),
        ("1+3", "1+3"),
        ("65535+65535", "65535+65535"),
        ("1..1", "1..1"),
        ("2..9", "2..9"),
        ("1..65535", "1..65535"),
        ("2..9+2", "2..9+2"),
        ("1..1+1", "1..1+1"),
        ("1..65535+65535", "1..65535+65535"),
        ("003", "3"),
        ("01+", "1+"),
        ("01+03", "1+3"),
        ("02..009+0002", "2..9+2"),
        ("0000065535", "65535"),
        (" 3+ ", "3+"),
    ],
)
def test_a_valid_expression_becomes_canonical_and_stays_so(text: str, canonical: str) -> None:
    assert check_when(text) == canonical
    assert check_when(canonical) == canonical


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *[
            (text, "is not one of F, F")
            for text in (
                "",
                " ",
                "+",
                "++",
                "..",
                "a",
                "1a",
                "a1",
                "0x1",
                "1e3",
                "1.5",
                "1,2",
                "-1",
                "-1+",
                "+1",
                "++1",
                "1-3",
                "1+-1",
                "1++",
                "1++2",
                "1+2+",
                "1+2+3",
                "1+a",
                "1 +2",
                "1+ 2",
                "1 2",
                "1..",
                "..3",
                "1..+2",
                "1..3+",
                "1..3++2",
                "1..3+2+",
                "1..3..5",
                "1...3",
                "1.3",
                "1.. 3",
                "1..a",
                "1..-3",
                "-1..3",
                "1+2..3",
                "1+..3",
                "1..3-1",
                "first",
                "3:4",
                "when=3",
                "True",
                "None",
            )
        ],
        *[
            (text, f"is outside 1 to {LARGEST}")
            for text in (
                "0",
                "00",
                "0+",
                "0+0",
                "0+1",
                "1+0",
                "1+00",
                "0..3",
                "0..0",
                "1..0",
                "1..3+0",
                "65536",
                "65536+",
                "1+65536",
                "65536+1",
                "1..65536",
                "1..3+65536",
                "4294967296",
                "18446744073709551617",
            )
        ],
        ("3..2", "before it begins"),
        ("65535..1", "before it begins"),
        ("3..2+1", "before it begins"),
        ("010..9", "before it begins"),
    ],
)
def test_an_invalid_expression_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason) as caught:
        check_when(text)
    assert str(caught.value).startswith(f"when {text!r} ")
