"""The edge node: the first blocks behind a REST endpoint, and the run-time policy."""
