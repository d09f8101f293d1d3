"""Readers of /proc, control groups and type information, and calls into the kernel."""
