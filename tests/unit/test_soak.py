"""What the soak benchmark calls growth."""

from __future__ import annotations

import random

import pytest

from benchmarks.soak import grown

AT = [float(second) for second in range(60)]


def noisy(level: float, noise: float, rise: float = 0.0) -> list[float]:
    """Return samples that rise along a straight line, with random noise."""
    chance = random.Random(7)
    return [level + rise * at / AT[-1] + chance.uniform(-noise, noise) for at in AT]


def test_single_high_samples_are_no_growth() -> None:
    memory = noisy(40e6, 2e6)
    memory[30] = memory[59] = 90e6
    assert grown(AT, {"anonymous memory": memory, "scrape": noisy(0.02, 0.01), "dropped": [0.0] * 60}) == []


def test_a_rise_during_the_warm_up_is_no_growth() -> None:
    assert grown(AT, {"anonymous memory": [min(at, 14) * 1e6 for at in AT]}) == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("anonymous memory", noisy(40e6, 1e6, rise=8e6)),
        ("scrape", noisy(0.02, 0.005, rise=0.1)),
        ('chaosorca_agent_map_entries{map="calls",program="syscalls"}', noisy(500, 10, rise=400)),
        ("dropped", [0.0] * 59 + [1.0]),
    ],
)
def test_steady_growth_is_reported(name: str, values: list[float]) -> None:
    (sentence,) = grown(AT, {name: values, "scrape of another": noisy(5, 1)})
    assert sentence.startswith(f"{name} grows by ")
