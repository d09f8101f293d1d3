"""What the agent keeps of a container."""
