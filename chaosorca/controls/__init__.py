"""Controls, which Chaos Toolkit calls before and after an experiment and its phases."""
