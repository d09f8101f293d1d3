"""The verifier of each kernel loads every eBPF program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.kernel_lab import SERIES


@pytest.mark.parametrize("kernel", SERIES)
def test_the_kernel_loads_every_program(kernel: str, programs: Path, refusals: Callable[[str], Mapping[str, str]]) -> None:
    assert refusals(kernel) == {program.stem: "" for program in programs.glob("*.o")}
