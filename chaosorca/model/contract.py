"""What the engine side and the agent agree on: names, paths, the port of `/metrics`, and the agent's capabilities."""

from __future__ import annotations

from pathlib import Path

AGENT = "chaosorca-agent"
PROMETHEUS = "chaosorca-prometheus"
PROMETHEUS_DATA = "chaosorca-prometheus-data"
NETWORK = "chaosorca"
"""Names of the containers, the volume and the network that chaosorca makes."""

ROLE_LABEL = "chaosorca.role"
"""The label of everything that chaosorca makes in an engine."""

SOCKET = "/run/chaosorca.sock"
"""The agent's control socket, inside its container."""
METRICS_PORT = 9309
"""The port of `/metrics`, on the private network."""
ENGINE_SOCKET = "/host/docker.sock"
"""Where the engine's socket is mounted in the agent's container, if the engine's host has it."""
HOST_CGROUPS = "/host/cgroup"
"""Where the host's /sys/fs/cgroup is mounted in the agent's container."""
PROGRAMS = Path("/usr/local/lib/chaosorca")
"""Where the compiled eBPF programs are in the agent's image."""

TRACE_VARIABLE = "CHAOSORCA_TRACE"
"""The environment variable that makes the tracer log its decisions; its only value is `1`."""
LOG_LEVEL_VARIABLE = "CHAOSORCA_LOG_LEVEL"
"""The environment variable with the level from which the agent logs, one of `LOG_LEVELS`."""
LOG_LEVELS = ("debug", "info", "warning", "error")

CAPABILITIES = {"DAC_READ_SEARCH": 2, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_PTRACE": 19, "SYS_ADMIN": 21, "SYS_NICE": 23}
"""The capabilities of the agent's container, with their bits (linux/capability.h).

SYS_ADMIN: load eBPF programs, enter network namespaces. SYS_PTRACE: trace. NET_ADMIN, NET_RAW: packet sockets.
DAC_READ_SEARCH: read /proc of other users. SYS_NICE: take a tracer out of SCHED_IDLE again.
"""
