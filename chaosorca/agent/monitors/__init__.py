"""What is measured of a target: one module for each monitor."""
