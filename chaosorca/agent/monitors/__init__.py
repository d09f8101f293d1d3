"""The monitors of targets, one module each."""
