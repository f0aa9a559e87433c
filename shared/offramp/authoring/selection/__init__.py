"""When to stop: the search for thresholds and temperatures, always on held-out data."""
