"""Load a TLS library late, and make five requests two seconds after that."""

from __future__ import annotations

import sys
import time
from pathlib import Path

while not Path("/go").exists():
    time.sleep(0.05)
import ssl  # noqa: E402
import urllib.request  # noqa: E402

context = ssl._create_unverified_context()
time.sleep(2)
for _ in range(5):
    urllib.request.urlopen(sys.argv[1], context=context).read()
time.sleep(600)
