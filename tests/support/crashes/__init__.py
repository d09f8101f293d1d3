"""The crash matrix: the events that can happen to a fault in force, and what must be true after each event."""
