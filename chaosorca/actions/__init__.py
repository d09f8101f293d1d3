"""Actions: start and stop Prometheus, monitoring and faults."""
