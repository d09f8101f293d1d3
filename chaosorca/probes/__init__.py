"""Probes, which return measurements as numbers."""
