"""How far a sample is from the known ones: the Mahalanobis distance under one Gaussian.

Source: Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples"; with one Gaussian for
all classes, and at the means and sizes of a block's channels instead of its classifier's input. Shapes: N samples,
D numbers of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.errors import ConfigError

# What hardly varies would count for too much: a direction gets at least this share of the largest variance, and a
# single number at least this share of the mean spread.
_LEAST_VARIANCE = 1e-4
_LEAST_SPREAD = 1e-2
_CONSTANT = 1e-6


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The squared distance of s (D,) is |s W + b|²; where it is 1, familiar ends.

    weights_DD: W. bias_D: b.
    """

    weights_DD: NDArray[np.float32]
    bias_D: NDArray[np.float32]

    def distances(self, seen_ND: NDArray[np.float32]) -> NDArray[np.float64]:
        """Squared distance (N,) of each sample."""
        whitened_ND = seen_ND.astype(np.float64) @ self.weights_DD + self.bias_D
        squares_N: NDArray[np.float64] = np.square(whitened_ND).sum(axis=1)
        return squares_N

    def with_limit(self, limit: float) -> Gaussian:
        """The same, in units of this squared distance."""
        scale = np.float32(1 / math.sqrt(limit))
        return Gaussian(self.weights_DD * scale, self.bias_D * scale)

    @property
    def macs(self) -> int:
        """Multiplications for one sample."""
        return int(self.weights_DD.size + self.bias_D.size)


def fit_gaussian(seen_ND: NDArray[np.float32]) -> Gaussian:
    """The Gaussian of these samples, with D directions of variance 1.

    Raises:
        ConfigError: the samples do not differ.
    """
    exact_ND = seen_ND.astype(np.float64)
    mean_D, spread_D = exact_ND.mean(axis=0), exact_ND.std(axis=0)
    if not spread_D.max() > _CONSTANT * np.abs(exact_ND).max():
        raise ConfigError(
            "its feature is the same for all photos, so it tells nothing; give photos that differ"
        )
    spread_D = np.maximum(spread_D, _LEAST_SPREAD * spread_D.mean())
    scaled_ND = (exact_ND - mean_D) / spread_D
    variances_D, directions_DD = np.linalg.eigh(scaled_ND.T @ scaled_ND / len(scaled_ND))
    variances_D = np.maximum(variances_D, _LEAST_VARIANCE * variances_D.max())
    weights_DD = directions_DD / spread_D[:, np.newaxis] / np.sqrt(variances_D)
    return Gaussian(weights_DD.astype(np.float32), (-mean_D @ weights_DD).astype(np.float32))


def samples_needed(false_alarms: float) -> int:
    """Fewest samples that can set a limit for this share of false alarms."""
    return math.ceil(1 / false_alarms - 1e-9) - 1


def limit_for(false_alarms: float, scores_N: NDArray[np.float64]) -> float:
    """The limit that a further familiar sample exceeds with a chance of at most `false_alarms`.

    Source: split conformal prediction (Vovk et al. 2005): the ⌈(N + 1)(1 - α)⌉-th smallest of N scores.

    Raises:
        ConfigError: there are too few samples.
    """
    least = samples_needed(false_alarms)
    if len(scores_N) < least:
        raise ConfigError(
            f"{len(scores_N)} samples cannot set a limit for {false_alarms:.2%} false alarms; that takes at least "
            f"{least}, and twice as many held-out samples, half of which stay untouched for guarantees: hold out "
            f"{2 * least} or more, or allow more false alarms"
        )
    rank = math.ceil((len(scores_N) + 1) * (1 - false_alarms) - 1e-9)
    return float(np.sort(scores_N)[rank - 1])
