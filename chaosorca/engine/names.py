"""Names and labels of everything that chaosorca makes in an engine."""

AGENT = "chaosorca-agent"
PROMETHEUS = "chaosorca-prometheus"
PROMETHEUS_DATA = "chaosorca-prometheus-data"
NETWORK = "chaosorca"

ROLE_LABEL = "chaosorca.role"
PROTECTED_LABEL = "chaosorca.protected"
