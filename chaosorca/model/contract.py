"""The places inside the agent's container that its parts, and whoever starts it, agree on."""

from __future__ import annotations

from pathlib import Path

SOCKET = "/run/chaosorca.sock"
METRICS_PORT = 9309
ENGINE_SOCKET = "/host/docker.sock"
"""Where the engine's socket is mounted, if it is."""
HOST_CGROUPS = "/host/cgroup"
"""Where the host's /sys/fs/cgroup is mounted."""
PROGRAMS = Path("/usr/local/lib/chaosorca")
"""Where the programs for the kernel are, compiled with the image."""
