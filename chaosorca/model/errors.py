"""The errors of chaosorca. They live at the bottom so that every layer, the agent's included, can raise them.

OrcaError
├── InvalidArgument     what was asked for makes no sense: refused before anything starts
├── EngineError         the Docker Engine cannot be reached, or refused
│   └── PortTaken       another program listens on the port
├── ContainerError      the container does not exist, does not run, or must not be touched
├── AgentError          the agent failed to do what it was asked
└── PrometheusError     Prometheus cannot be reached, or refused
    └── NoData          it answered, and has no figure to give
"""

from __future__ import annotations


class OrcaError(Exception):
    """Any error of chaosorca; its text is one sentence for a user."""


class InvalidArgument(OrcaError, ValueError):
    """An argument that makes no sense, refused before anything starts."""


class EngineError(OrcaError):
    """The Docker Engine cannot be reached, or refused what was asked."""


class PortTaken(EngineError):
    """Another program listens on the port that a container was to publish."""


class ContainerError(OrcaError):
    """The container does not exist, does not run, or must not be touched."""


class AgentError(OrcaError):
    """The agent failed to do what it was asked."""


class PrometheusError(OrcaError):
    """Prometheus cannot be reached, or refused what was asked."""


class NoData(PrometheusError):
    """Prometheus answered, and there is no figure to give."""


KINDS: dict[str, type[OrcaError]] = {
    kind.__name__: kind for kind in (InvalidArgument, EngineError, PortTaken, ContainerError, AgentError, PrometheusError, NoData)
}
"""The errors by name, as the agent sends them."""
