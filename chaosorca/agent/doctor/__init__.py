"""Trials of what this host can do."""
