"""How a fault is injected: one module for each tracer."""
