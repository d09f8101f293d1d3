"""What runs inside the agent's container: the monitors, the injectors, the exporter, and the control server.

This package is copied into the agent's image together with `chaosorca.model`. It imports nothing else from `chaosorca`.
"""
