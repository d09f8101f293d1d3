"""The Docker side: the client, containers, images, and the containers of the agent and of Prometheus."""
