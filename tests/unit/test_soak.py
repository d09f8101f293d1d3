"""What the soak benchmark calls growth."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
AT = [float(second) for second in range(60)]


@pytest.fixture(scope="module")
def soak() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("soak")
    finally:
        sys.path.remove(str(BENCHMARKS))


def noisy(level: float, noise: float, rise: float = 0.0) -> list[float]:
    chance = random.Random(7)
    return [level + rise * at / AT[-1] + chance.uniform(-noise, noise) for at in AT]


def test_what_is_level_does_not_grow_whatever_single_samples_say(soak: Any) -> None:
    memory = noisy(40e6, 2e6)
    memory[30] = memory[59] = 90e6
    assert soak.grown(AT, {"anonymous memory": memory, "scrape": noisy(0.02, 0.01), "dropped": [0.0] * 60}) == []


def test_what_grows_only_at_first_does_not_grow(soak: Any) -> None:
    assert soak.grown(AT, {"anonymous memory": [min(at, 14) * 1e6 for at in AT]}) == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("anonymous memory", noisy(40e6, 1e6, rise=8e6)),
        ("scrape", noisy(0.02, 0.005, rise=0.1)),
        ('chaosorca_agent_map_entries{map="calls",program="syscalls"}', noisy(500, 10, rise=400)),
        ("dropped", [0.0] * 59 + [1.0]),
    ],
)
def test_what_grows_is_told(soak: Any, name: str, values: list[float]) -> None:
    (sentence,) = soak.grown(AT, {name: values, "scrape of another": noisy(5, 1)})
    assert sentence.startswith(f"{name} grows by ")
