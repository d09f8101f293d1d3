"""The public errors of chaosorca: one small tree, drawn in `chaosorca.model.errors`."""

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
