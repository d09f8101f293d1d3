"""Names and labels of everything that chaosorca makes in an engine."""

from chaosorca.model.container import ROLE_LABEL as ROLE_LABEL

AGENT = "chaosorca-agent"
PROMETHEUS = "chaosorca-prometheus"
PROMETHEUS_DATA = "chaosorca-prometheus-data"
NETWORK = "chaosorca"
