"""Probes: measurements as numbers."""
