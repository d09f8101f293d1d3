"""The Docker side: the client, containers, images, the agent's container and Prometheus's."""
