"""When to stop: confidence measures and the search for thresholds, always on held-out data."""
