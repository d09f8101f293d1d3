"""Records of faults. A test gives only the fields that differ from the usual record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from chaosorca.model.record import FaultRecord
from tests.support.fakes import START

_USUAL = FaultRecord(
    id="1",
    run="r",
    container="web",
    container_id="c" * 64,
    text="openat:error=EACCES",
    injector="uprobe",
    seed=7,
    syscalls=("openat",),
    effects=("error",),
    placebo=False,
    begins=START,
    ends=START + 600,
    ended=START + 5.5,
    reason="it was stopped",
    abort_when=None,
    injected={"openat": 9},
    not_attached=(),
    coverage={},
    tracer_restarts=0,
    warnings=(),
)


def fault_record(**changed: Any) -> FaultRecord:
    """Return a record with some changed fields. By default, the fault fired nine times and was stopped after 5.5 seconds."""
    return replace(_USUAL, **changed)
