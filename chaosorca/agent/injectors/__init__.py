"""The injectors, and the tracers and uprobes that they use."""
