"""Early-exit neural networks: attach exits, train, choose thresholds, export, serve on tiers."""
