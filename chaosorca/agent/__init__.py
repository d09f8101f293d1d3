"""What runs inside the agent's container: monitors in eBPF, tracers, the exporter, and the server that is told what to do.

It is copied into the agent's image with `chaosorca.model`, and imports nothing else of the package.
"""
