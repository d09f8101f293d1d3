"""The project's own files and commands, as tests use them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may trace, stop or kill processes of containers")


def orca(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the `chaosorca` command."""
    return subprocess.run(
        [BIN / "chaosorca", *arguments], capture_output=True, text=True, timeout=240, check=False, env=environment
    )
