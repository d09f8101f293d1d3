"""A process that runs for a while before it loads a TLS library, and then asks a server five times."""

from __future__ import annotations

import sys
import time

sys.stdin.readline()
import ssl  # noqa: E402
import urllib.request  # noqa: E402

context = ssl._create_unverified_context()
time.sleep(2)
for _ in range(5):
    urllib.request.urlopen(sys.argv[1], context=context).read()
