"""The Linux capabilities of the agent's container. The engine grants them, and the doctor checks them."""

from __future__ import annotations

CAPABILITIES = {"DAC_READ_SEARCH": 2, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_PTRACE": 19, "SYS_ADMIN": 21, "SYS_NICE": 23}
"""Each capability with its bit (linux/capability.h).

- DAC_READ_SEARCH: read /proc entries of other users' processes.
- NET_ADMIN, NET_RAW: open packet sockets.
- SYS_PTRACE: use ptrace.
- SYS_ADMIN: load eBPF programs and enter network namespaces.
- SYS_NICE: return a tracer from SCHED_IDLE to normal scheduling.
"""
