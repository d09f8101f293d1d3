"""The id of this run. Each client process is a run, and ends only the faults that it started."""

from __future__ import annotations

import uuid

RUN_ID = uuid.uuid4().hex
