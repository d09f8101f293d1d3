"""Machine code: bytes in, places out."""
