"""The id of this run. Each client process is a run. A run ends only the faults that the same run has started."""

from __future__ import annotations

import uuid

RUN_ID = uuid.uuid4().hex
