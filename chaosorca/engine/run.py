"""Who starts a fault: each process of a user's is a run of its own, and ends only its own faults."""

from __future__ import annotations

import uuid

RUN_ID = uuid.uuid4().hex
