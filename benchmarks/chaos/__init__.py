"""The page of what attacks and faults do: `python -m benchmarks.chaos`. The scenarios are in `tests/chaos/`."""
