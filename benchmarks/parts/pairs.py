"""Interleaved pairs of runs, one without and one with a fault, and the spread of their ratios."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

Run = Callable[[str], float]
"""Measures one run with an injector, `none` for the run without a fault; returns a rate or a duration."""


@dataclass
class Pair:
    """What two neighbouring runs measured."""

    without: float
    with_fault: float

    @property
    def ratio(self) -> float:
        """The run with the fault as a share of the run without."""
        return self.with_fault / self.without


def pairs_of(number: int, run: Run, injectors: list[str]) -> dict[str, list[Pair]]:
    """Measure pairs, interleaved: each injector has a pair before any injector has the next one.

    The two runs of a pair change places from pair to pair.
    """
    found: dict[str, list[Pair]] = {injector: [] for injector in injectors}
    for turn in range(number):
        for injector in injectors:
            if turn % 2:
                with_fault = run(injector)
                found[injector].append(Pair(run("none"), with_fault))
            else:
                without = run("none")
                found[injector].append(Pair(without, run(injector)))
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def quartiles(values: list[float]) -> tuple[float, float]:
    """Return the lower and the upper quartile."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def medians(pairs: list[Pair]) -> tuple[float, float]:
    """Return the median of the runs without a fault, and of those with it."""
    return statistics.median(one.without for one in pairs), statistics.median(one.with_fault for one in pairs)


def print_kept(title: str, unit: str, found: dict[str, list[Pair]], notes: dict[str, str] | None = None) -> None:
    """Print a table of the share of a rate that is kept under each injector."""
    print(f"\n{title}")
    print(f"{'':<9}{'kept':>7}{'quartiles':>16}{'min..max':>16}{'without':>12}{'with':>10} {unit}")
    for injector, pairs in found.items():
        kept = [pair.ratio for pair in pairs]
        low, high = quartiles(kept)
        without, with_fault = medians(pairs)
        spread = f"{f'{low:.3f}..{high:.3f}':>16}{f'{min(kept):.3f}..{max(kept):.3f}':>16}"
        rates = f"{without:>12,.0f}{with_fault:>10,.0f}"
        print(
            f"{injector:<9}{statistics.median(kept):>7.3f}{spread}{rates}  {(notes or {}).get(injector, '')}".rstrip(), flush=True
        )
