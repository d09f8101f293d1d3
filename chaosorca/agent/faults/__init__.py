"""The faults of this Docker Engine: how they start, reach new processes, and end."""
