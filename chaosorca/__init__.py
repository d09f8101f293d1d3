"""A Chaos Toolkit extension for chaos engineering on system calls of unmodified Docker containers."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "discover"]

_ACTIVITIES = {
    "discover_actions": ["actions.prometheus", "actions.monitoring", "actions.faults"],
    "discover_probes": ["probes.http", "probes.syscalls", "probes.resources", "probes.faults"],
}


def discover(discover_system: bool = True) -> Any:
    """List the activities of this extension, for `chaos discover chaostoolkit-orca`."""
    import chaoslib.discovery as chaoslib  # not imported at the top, because the agent runs without Chaos Toolkit

    result = chaoslib.initialize_discovery_result("chaostoolkit-orca", __version__, "chaosorca")
    for function, modules in _ACTIVITIES.items():
        for module in modules:
            result["activities"].extend(getattr(chaoslib, function)(f"{__name__}.{module}"))
    return result
