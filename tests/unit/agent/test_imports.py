"""Every module of the agent can be imported outside its image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import chaosorca.agent

DIRECTORY = Path(chaosorca.agent.__file__).parent
MODULES = sorted(
    ".".join(["chaosorca", "agent", *path.relative_to(DIRECTORY).with_suffix("").parts]).removesuffix(".__init__")
    for path in DIRECTORY.rglob("*.py")
)


def test_every_module_imports_without_what_users_install() -> None:
    absent = ["chaoslib", "click", "docker", "logzero", "requests"]
    program = f"import sys\nfor name in {absent}: sys.modules[name] = None\n" + "".join(f"import {name}\n" for name in MODULES)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "chaosorca.agent.monitors.http" in MODULES
