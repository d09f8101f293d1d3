"""The public errors of chaosorca. `chaosorca.model.errors` shows them as a tree."""

from chaosorca.model.errors import (
    AgentError,
    ContainerError,
    EngineError,
    InvalidArgument,
    NoData,
    OrcaError,
    PortTaken,
    PrometheusError,
)

__all__ = [
    "AgentError",
    "ContainerError",
    "EngineError",
    "InvalidArgument",
    "NoData",
    "OrcaError",
    "PortTaken",
    "PrometheusError",
]
