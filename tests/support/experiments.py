"""Run experiments as users do, and read the files that they leave."""

from __future__ import annotations

import csv
import os
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.project import BIN
from tests.support.web import Web


def chaos(web: Web, directory: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `chaos` in a directory, with a container and its address in the environment."""
    environment = {**os.environ, "CHAOSORCA_TARGET": web.name, "CHAOSORCA_URL": web.url}
    return subprocess.Popen(
        [BIN / "chaos", "--no-version-check", *arguments],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV file. Timestamps become `datetime` objects."""
    with path.open(newline="") as lines:
        return [{**row, "timestamp": datetime.fromisoformat(row["timestamp"])} for row in csv.DictReader(lines)]
