"""Everything that uses the Docker Engine: the client, containers, images, and the containers of the agent and of Prometheus."""
