"""Durations: what is accepted, what is refused, and how they are formatted."""

from __future__ import annotations

import pytest

from chaosorca.model.duration import format_duration, parse_duration, parse_seconds
from chaosorca.model.errors import InvalidArgument

SECOND = 1_000_000


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("1us", 1),
        ("250us", 250),
        ("1ms", 1_000),
        ("100ms", 100_000),
        ("1.5ms", 1_500),
        ("0.001ms", 1),
        ("0.1s", 100_000),
        ("5s", 5 * SECOND),
        ("0.000001s", 1),
        ("2m", 120 * SECOND),
        ("0.5m", 30 * SECOND),
        ("1h", 3_600 * SECOND),
        ("24h", 86_400 * SECOND),
        ("8784h", 8_784 * 3_600 * SECOND),
        (" 5s ", 5 * SECOND),
        ("007s", 7 * SECOND),
        ("1000000us", SECOND),
    ],
)
def test_a_number_and_a_unit_are_a_duration(text: str, microseconds: int) -> None:
    assert parse_duration(text, "delay") == microseconds
    assert parse_seconds(text, "delay") == microseconds / SECOND


@pytest.mark.parametrize(
    "value", [0, 1, 100, -5, 0.1, 100.0, float("nan"), True, False, "0", "1", "100", "100.0", "0.5", ".5", " 7 "]
)
def test_a_bare_number_is_refused_for_having_no_unit(value: object) -> None:
    with pytest.raises(InvalidArgument, match=r"^delay .* has no unit: .*'100ms'$"):
        parse_duration(value, "delay")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("0s", "is zero"),
        ("0us", "is zero"),
        ("0.0h", "is zero"),
        ("0.5us", "finer than a microsecond"),
        ("1.0005ms", "finer than a microsecond"),
        ("0.0000001s", "finer than a microsecond"),
        ("8785h", "longer than a year"),
        ("9999999999999s", "longer than a year"),
        ("-1s", "is not a duration"),
        ("-5", "is not a duration"),
        ("+1s", "is not a duration"),
        ("1e3ms", "is not a duration"),
        ("1_000ms", "is not a duration"),
        ("1,5s", "is not a duration"),
        ("1 s", "is not a duration"),
        ("1S", "is not a duration"),
        ("1MS", "is not a duration"),
        ("1sec", "is not a duration"),
        ("1d", "is not a duration"),
        ("1ns", "is not a duration"),
        ("1m30s", "is not a duration"),
        (".5s", "is not a duration"),
        ("1.s", "is not a duration"),
        ("1..5s", "is not a duration"),
        ("s", "is not a duration"),
        ("ms", "is not a duration"),
        ("", "is not a duration"),
        (" ", "is not a duration"),
        ("soon", "is not a duration"),
        ("infs", "is not a duration"),
        ("nans", "is not a duration"),
        ("0x10ms", "is not a duration"),
        (None, "is not a duration"),
        ([], "is not a duration"),
        (["1s"], "is not a duration"),
        ({"seconds": 1}, "is not a duration"),
        (b"1s", "is not a duration"),
    ],
)
def test_an_invalid_duration_is_refused_with_its_reason(value: object, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason) as caught:
        parse_duration(value, "delay_enter")
    assert str(caught.value).startswith(f"delay_enter {value!r} ")


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (1, "1us"),
        (250, "250us"),
        (999, "999us"),
        (1_000, "1ms"),
        (1_001, "1001us"),
        (1_500, "1500us"),
        (100_000, "100ms"),
        (SECOND, "1s"),
        (1_500_000, "1500ms"),
        (59 * SECOND, "59s"),
        (60 * SECOND, "1m"),
        (90 * SECOND, "90s"),
        (600 * SECOND, "10m"),
        (3_600 * SECOND, "1h"),
        (5_400 * SECOND, "90m"),
        (86_400 * SECOND, "24h"),
    ],
)
def test_a_duration_is_formatted_with_its_largest_unit_and_parsed_again(microseconds: int, text: str) -> None:
    assert format_duration(microseconds) == text
    assert parse_duration(text, "delay") == microseconds
