"""The id of this run. Each client process is a run. At its end, a run ends only the faults that it has started."""

from __future__ import annotations

import uuid

RUN_ID = uuid.uuid4().hex
