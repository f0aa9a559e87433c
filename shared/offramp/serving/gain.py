"""Measures, before a node answers, how large a batch this tier gains from.

A CPU takes about as long for each sample however many share a batch. A GPU takes about as long for eight as for one,
so there a batch has to grow while the one before it runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import numpy as np

from offramp.engine.tier import Tier
from offramp.logs import line

_log = logging.getLogger("offramp.serving")

_GAINS = 0.9  # a sample takes at most this much of its time in a batch half as large
_RUNS = 5
_LONGEST_S = 0.5  # for all runs of one size
_NO_GPU_S = 0.25  # for one sample: a node should not start late to learn that it runs on a CPU


def gaining_batch(tier: Tier, *, most: int) -> int:
    """Largest batch, doubling from 1, up to which each doubling makes a sample take clearly less time.

    Args:
        tier: its blocks are run in full on samples of zeros.
        most: samples in a batch.
    """
    best, best_s = 1, _sample_s(tier, 1)
    for size in _doubled(most if best_s < _NO_GPU_S else 1):
        sample_s = _sample_s(tier, size)
        if sample_s > _GAINS * best_s:
            break
        best, best_s = size, sample_s
    _log.debug(line("batches", gain_up_to=best, ms_each=round(1000 * best_s, 3)))
    return best


def _doubled(most: int) -> Iterator[int]:
    size = 2
    while size <= most:
        yield size
        size *= 2


def _sample_s(tier: Tier, size: int) -> float:
    """Seconds for one sample of a batch of this size, at best; the first run is for memory and kernels."""
    given = tier.manifest.blocks[tier.start - 1].input
    batch = np.zeros((size, *given.shape), given.dtype)
    thetas = [1.0] * (tier.manifest.num_exits - 1)
    begun = time.perf_counter()
    tier.run(batch, thetas)
    best = float("inf")
    for _ in range(_RUNS):
        before = time.perf_counter()
        tier.run(batch, thetas)
        after = time.perf_counter()
        best = min(best, after - before)
        if after - begun > _LONGEST_S:
            break
    return best / size
