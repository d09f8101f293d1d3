"""The faults of this engine: how they start, reach new processes, and end."""
