"""Remove the bounds of functions from a library's file, so that it is no longer certain which function calls which."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

UNWIND_HEADER = 0x6474E550
path = Path(sys.argv[1])
library = bytearray(path.read_bytes())
(segments_at,) = struct.unpack_from("<Q", library, 32)
size, number = struct.unpack_from("<HH", library, 54)
headers = (struct.unpack_from("<IIQ", library, segments_at + place * size) for place in range(number))
(header_at,) = (offset for kind, _, offset in headers if kind == UNWIND_HEADER)
(distance,) = struct.unpack_from("<i", library, header_at + 4)
struct.pack_into("<I", library, header_at + 8, 0)  # the table has no entries
struct.pack_into("<I", library, header_at + 4 + distance, 0)  # the unwind information ends where it begins
path.write_bytes(library)
