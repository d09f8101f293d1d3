"""What the engine side and the agent agree on: names, paths, the port of `/metrics`, and environment variables."""

from __future__ import annotations

from pathlib import Path

AGENT = "chaosorca-agent"
PROMETHEUS = "chaosorca-prometheus"
PROMETHEUS_DATA = "chaosorca-prometheus-data"
NETWORK = "chaosorca"
"""Names of the containers, the volume and the network that chaosorca creates."""

ROLE_LABEL = "chaosorca.role"
"""The label on every container, image, network and volume that chaosorca creates."""

SOCKET = "/run/chaosorca.sock"
"""The agent's control socket, inside its container."""
METRICS_PORT = 9309
"""The port of `/metrics`, on the private network."""
ENGINE_SOCKET = "/host/docker.sock"
"""Mount point of the Docker Engine's socket in the agent's container. The mount exists only if the engine's host has the socket."""
HOST_CGROUPS = "/host/cgroup"
"""Mount point of the host's /sys/fs/cgroup in the agent's container."""
PROGRAMS = Path("/usr/local/lib/chaosorca")
"""Directory of the compiled eBPF programs in the agent's image."""

TRACE_VARIABLE = "CHAOSORCA_TRACE"
"""The environment variable that makes the tracer log its decisions. The only valid value is `1`."""
LOG_LEVEL_VARIABLE = "CHAOSORCA_LOG_LEVEL"
"""The environment variable that sets the agent's log level, one of `LOG_LEVELS`."""
LOG_LEVELS = ("debug", "info", "warning", "error")
