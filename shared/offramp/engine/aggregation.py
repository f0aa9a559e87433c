"""What the last exit answers where a bundle aggregates: the geometric mean of all exits' probabilities.

A sample that reaches the last exit has passed all the others. What they said costs nothing more, and they err elsewhere
(Zero Time Waste, Wołczyk et al. 2021; here with equal weights, and at the last exit only). Each tier multiplies in the
exits it passed, deepest first, rounded each time, so that a network cut anywhere answers the same bit for bit; the tier
that ran block 1 takes the root. Shapes: K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_LEAST = 1e-7  # of a probability: no exit alone rules a class out
_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))


def joined(
    probabilities_K: NDArray[np.float32], passed: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Multiply in what the exits that were passed said, given shallow to deep, and scale to a sum of 1."""
    for passed_K in reversed(passed):
        product_K = _floored(probabilities_K) * _floored(passed_K)
        probabilities_K = (product_K / product_K.sum()).astype(np.float32)
    return probabilities_K


def rooted(probabilities_K: NDArray[np.float32], num_exits: int) -> NDArray[np.float32]:
    """From the product of so many exits to their geometric mean, scaled to a sum of 1."""
    root_K = _floored(probabilities_K) ** (1 / num_exits)
    scaled_K: NDArray[np.float32] = (root_K / root_K.sum()).astype(np.float32)
    return scaled_K


def confidence_of(probabilities_K: NDArray[np.float32]) -> float:
    """Of an aggregated answer: its largest probability, below 1 as every confidence is."""
    return float(min(probabilities_K.max(), _BELOW_ONE))


def _floored(probabilities_K: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.maximum(probabilities_K, _LEAST, dtype=np.float64)
