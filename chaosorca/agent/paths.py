"""The places inside the agent's container that its parts, and whoever starts it, agree on."""

SOCKET = "/run/chaosorca.sock"
METRICS_PORT = 9309
HOST_CGROUPS = "/host/cgroup"
"""Where the host's /sys/fs/cgroup is mounted."""
