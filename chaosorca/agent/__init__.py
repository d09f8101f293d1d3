"""What runs inside the agent's container: the monitors, the injectors, the exporter, and the control server.

It is copied into the agent's image with `chaosorca.model`, and imports nothing else of the package.
"""
