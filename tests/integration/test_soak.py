"""Nothing of monitoring grows in two minutes of load. benchmarks/soak.py itself runs for an hour."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.project import needs_root

pytestmark = needs_root

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_two_minutes_of_load() -> None:
    ended = subprocess.run([sys.executable, str(SOAK), "--minutes", "2"], capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, f"{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
