"""Checks and trials of what works on this host."""
