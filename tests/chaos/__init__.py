"""Attacks on real nodes and faults between them, each while somebody asks about normal photos.

`scenarios.py` is the table; each scenario is one function that gets a `Stage` and returns an `Outcome`. Both
`OFFRAMP_CHAOS=1 pytest tests/chaos` and `python -m benchmarks.chaos` run them.
"""
