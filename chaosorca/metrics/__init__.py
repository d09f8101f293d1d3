"""Queries to Prometheus: its HTTP client, the PromQL of every metric, time series, tables and CSV."""
