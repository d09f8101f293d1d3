"""The faults of this engine."""
