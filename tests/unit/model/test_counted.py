"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from chaosorca.model.counted import counted


@pytest.mark.parametrize(
    ("number", "nouns", "text"),
    [
        (0, ["call"], "0 calls"),
        (1, ["call"], "1 call"),
        (2, ["call"], "2 calls"),
        (1, ["process", "processes"], "1 process"),
        (3, ["process", "processes"], "3 processes"),
    ],
)
def test_a_noun_fits_its_number(number: int, nouns: list[str], text: str) -> None:
    assert counted(number, *nouns) == text
