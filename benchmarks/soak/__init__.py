"""A long run under load, junk and restarts: `python -m benchmarks.soak`."""
