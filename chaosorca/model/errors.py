"""The errors of chaosorca. This module is in the lowest layer, so every other layer, including the agent, can raise these errors.

OrcaError
├── InvalidArgument     an argument is invalid; nothing was started
├── EngineError         the Docker Engine cannot be reached, or refused the request
│   └── PortTaken       another program listens on the port
├── ContainerError      the container does not exist, does not run, or is protected
├── AgentError          the agent could not perform the requested operation
└── PrometheusError     Prometheus cannot be reached, or refused the request
    └── NoData          Prometheus lacks the data for the request
"""

from __future__ import annotations


class OrcaError(Exception):
    """Any error of chaosorca. Its text is one sentence for a user."""


class InvalidArgument(OrcaError, ValueError):
    """An argument is invalid. Nothing was started."""


class EngineError(OrcaError):
    """The Docker Engine cannot be reached, or refused the request."""


class PortTaken(EngineError):
    """A container cannot publish its port, because another program listens on that port."""


class ContainerError(OrcaError):
    """The container does not exist, does not run, or is protected."""


class AgentError(OrcaError):
    """The agent could not perform the requested operation."""


class PrometheusError(OrcaError):
    """Prometheus cannot be reached, or refused the request."""


class NoData(PrometheusError):
    """Prometheus lacks the data for the request."""


KINDS: dict[str, type[OrcaError]] = {
    kind.__name__: kind for kind in (InvalidArgument, EngineError, PortTaken, ContainerError, AgentError, PrometheusError, NoData)
}
"""The error classes by name. The agent sends the name of the class with each error."""
