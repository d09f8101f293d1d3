"""The crash matrix: what can happen to a fault that is in force, and what must be true afterwards."""
