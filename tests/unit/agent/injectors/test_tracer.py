"""The lines that a tracer writes to standard error."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

import pytest

from chaosorca.agent.injectors.tracer import Tracer

STAND_IN = """#!{python}
import sys
print("trace: thread 7 enters openat", file=sys.stderr)
print("cannot read memory", file=sys.stderr)
print("trace: thread 7 is hit", file=sys.stderr, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def tracer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Tracer:
    """A tracer that logs two decisions and an error."""
    caplog.set_level(logging.INFO, "chaosorca.agent.tracer")
    program = tmp_path / "tracer"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    state = os.memfd_create("state")
    try:
        return Tracer(str(program), state, lambda *calls: None, lambda *event: None)
    finally:
        os.close(state)


def test_its_decisions_are_logged_and_are_no_errors(tracer: Tracer, caplog: pytest.LogCaptureFixture) -> None:
    end = time.monotonic() + 20
    while len(caplog.records) < 2 and time.monotonic() < end:
        time.sleep(0.005)
    error = tracer.last_error()
    tracer.kill()
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("INFO", f"tracer {tracer.pid}: thread 7 enters openat"),
        ("INFO", f"tracer {tracer.pid}: thread 7 is hit"),
    ]
    assert error == "cannot read memory"
