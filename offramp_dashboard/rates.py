"""Turns readings of counters into increments, and histograms into quantiles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from offramp_dashboard.reading import Key, Reading

Increments = Mapping[Key, float]


def increments(before: Reading, after: Reading) -> dict[Key, float]:
    """What each counter gained between two readings; those that gained nothing are left out.

    If a counter fell, or the start time changed, the node was restarted. Then everything it counted since its
    start is gained.
    """
    fell = any(after.counters.get(key, 0.0) < value for key, value in before.counters.items())
    restarted = fell or before.started != after.started
    gained = {
        key: value - (0.0 if restarted else before.counters.get(key, 0.0))
        for key, value in after.counters.items()
    }
    return {key: value for key, value in gained.items() if value > 0}


def total(counted: Increments, name: str, **labels: str) -> float:
    """Sum of a counter over all its labels except those given."""
    wanted = labels.items()
    return sum(
        value for key, value in counted.items() if key.name == name and wanted <= dict(key.labels).items()
    )


def by_labels(counted: Increments, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Sums of a counter, for each value of these labels."""
    sums: dict[tuple[str, ...], float] = {}
    for key, value in counted.items():
        if key.name == name:
            values = tuple(key.label(label) for label in labels)
            sums[values] = sums.get(values, 0.0) + value
    return sums


def summed(parts: Iterable[Increments]) -> dict[Key, float]:
    """Add up the increments of several seconds or of several nodes."""
    sums: dict[Key, float] = {}
    for part in parts:
        for key, value in part.items():
            sums[key] = sums.get(key, 0.0) + value
    return sums


def buckets(counted: Increments, histogram: str, **labels: str) -> list[tuple[float, float]]:
    """Upper bounds of a histogram's buckets, rising, with how many samples lie at or below each."""
    sums: dict[float, float] = {}
    wanted = labels.items()
    for key, value in counted.items():
        own = dict(key.labels)
        if key.name == f"{histogram}_bucket" and wanted <= own.items():
            bound = float(own["le"])
            sums[bound] = sums.get(bound, 0.0) + value
    return sorted(sums.items())


def quantile(cumulative: Sequence[tuple[float, float]], q: float) -> float | None:
    """The q-quantile of a histogram, interpolated within its bucket as Prometheus does.

    Args:
        cumulative: as `buckets` returns it.
        q: 0 to 1.

    Returns:
        None without samples; infinity if it lies above the last finite bound.
    """
    if not cumulative or cumulative[-1][1] <= 0:
        return None
    rank = q * cumulative[-1][1]
    lower, below = 0.0, 0.0
    for bound, count in cumulative:
        if count >= rank and count > below:
            if math.isinf(bound):
                return math.inf
            return lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return math.inf
