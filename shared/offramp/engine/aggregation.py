"""The last exit's answer in a bundle that aggregates: the geometric mean of all exits' probabilities.

A sample that reaches the last exit has passed all the others. Their answers are free by then, and they make different
mistakes (Zero Time Waste, Wołczyk et al. 2021; here with equal weights, and at the last exit only). Each tier
multiplies in the exits it passed, deepest first, and rounds after each one, so the answer is the same bit for bit
wherever the network is split. The tier that ran block 1 takes the root. Shapes: K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_LEAST = 1e-7  # lowest probability that counts, so that no single exit rules a class out
_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))


def joined(
    probabilities_K: NDArray[np.float32], passed: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Multiply in the probabilities of the passed exits, given shallow to deep, and scale to a sum of 1."""
    for passed_K in reversed(passed):
        product_K = _floored(probabilities_K) * _floored(passed_K)
        probabilities_K = (product_K / product_K.sum()).astype(np.float32)
    return probabilities_K


def rooted(probabilities_K: NDArray[np.float32], num_exits: int) -> NDArray[np.float32]:
    """Turn the product of all exits' probabilities into their geometric mean, scaled to a sum of 1."""
    root_K = _floored(probabilities_K) ** (1 / num_exits)
    scaled_K: NDArray[np.float32] = (root_K / root_K.sum()).astype(np.float32)
    return scaled_K


def confidence_of(probabilities_K: NDArray[np.float32]) -> float:
    """Confidence of an aggregated answer: its largest probability, kept below 1 like every confidence."""
    return float(min(probabilities_K.max(), _BELOW_ONE))


def _floored(probabilities_K: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.maximum(probabilities_K, _LEAST, dtype=np.float64)
