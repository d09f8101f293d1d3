"""The metrics of the agent, and the endpoint that serves them."""
