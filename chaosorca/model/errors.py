"""The errors of chaosorca. They are in the lowest layer, so that all others can raise them, including the agent.

OrcaError
├── InvalidArgument     an argument makes no sense; nothing was started
├── EngineError         the Docker Engine cannot be reached, or refused the request
│   └── PortTaken       another program listens on the port
├── ContainerError      the container does not exist, does not run, or is protected
├── AgentError          the agent failed to do what it was asked
└── PrometheusError     Prometheus cannot be reached, or refused the request
    └── NoData          Prometheus has no data to answer the request
"""

from __future__ import annotations


class OrcaError(Exception):
    """Any error of chaosorca. Its text is one sentence for a user."""


class InvalidArgument(OrcaError, ValueError):
    """An argument makes no sense; nothing was started."""


class EngineError(OrcaError):
    """The Docker Engine cannot be reached, or refused the request."""


class PortTaken(EngineError):
    """Another program listens on the port that a container is to publish."""


class ContainerError(OrcaError):
    """The container does not exist, does not run, or is protected."""


class AgentError(OrcaError):
    """The agent failed to do what it was asked."""


class PrometheusError(OrcaError):
    """Prometheus cannot be reached, or refused the request."""


class NoData(PrometheusError):
    """Prometheus has no data to answer the request."""


KINDS: dict[str, type[OrcaError]] = {
    kind.__name__: kind for kind in (InvalidArgument, EngineError, PortTaken, ContainerError, AgentError, PrometheusError, NoData)
}
"""The errors by their names, which the agent sends."""
