"""Actions that start and stop Prometheus, monitoring and faults."""
