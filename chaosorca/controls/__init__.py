"""Controls: what happens before and after an experiment."""
