"""Statistics of an evaluation: how certain a share or a difference is, and how good a confidence. Shapes: N samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BINS = 15


def wilson_interval(hits: int, samples: int) -> tuple[float, float]:
    """95 % confidence interval of a share.

    Source: Wilson 1927; unlike the normal interval it never leaves [0, 1] and holds near both ends.
    """
    from scipy.stats import binomtest  # imported here because it takes half a second

    interval = binomtest(hits, samples).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def two_shares(hits: int, samples: int, other_hits: int, other_samples: int) -> float:
    """Chance that two samples of the same population differ by as much in their shares; two-sided.

    Source: Fisher's exact test, 1935.
    """
    from scipy.stats import fisher_exact

    table = [[hits, samples - hits], [other_hits, other_samples - other_hits]]
    return min(float(fisher_exact(table).pvalue), 1.0)


def rarely(p: float) -> str:
    """How often chance alone makes such a difference, in a word or two; `p` is 0 to 1."""
    if p < 0.001:
        return "less than once in 1,000 times"
    if p <= 0.1:
        return f"once in {round(1 / p):,} times"
    return f"{p:.0%} of the time".replace("%", " %")


@dataclass(frozen=True)
class McNemar:
    """Two classifiers on the same samples: how often only one of them is right, and how likely that is by chance.

    p_value: chance of such a difference if both were right equally often; two-sided, exact. Source: McNemar 1947.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first_N: NDArray[np.bool_], second_N: NDArray[np.bool_]) -> McNemar:
    """Compare two classifiers by the samples that each gets right."""
    only_first, only_second = int((first_N & ~second_N).sum()), int((second_N & ~first_N).sum())
    discordant = only_first + only_second
    if not discordant:
        return McNemar(0, 0, 1.0)
    from scipy.stats import binomtest

    return McNemar(only_first, only_second, float(binomtest(only_first, discordant).pvalue))


def auroc(confidence_N: NDArray[np.float32], correct_N: NDArray[np.bool_]) -> float | None:
    """Chance that a right answer is more confident than a wrong one, ties count half; None if all are right or wrong.

    Early exits depend on it: if confidence ranks answers well, good thresholds exist, calibrated or not.
    """
    right = int(correct_N.sum())
    wrong = len(correct_N) - right
    if not right or not wrong:
        return None
    _, group, counts = np.unique(confidence_N, return_inverse=True, return_counts=True)
    mean_rank = counts.cumsum() - (counts - 1) / 2
    return float((mean_rank[group][correct_N].sum() - right * (right + 1) / 2) / (right * wrong))


def calibration_error(confidence_N: NDArray[np.float32], correct_N: NDArray[np.bool_]) -> float:
    """Expected calibration error over 15 bins of equal width: how far confidence is from accuracy on average.

    Source: Guo et al. 2017, eq. 3.
    """
    bin_N = np.minimum((confidence_N * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bin_N, confidence_N.astype(np.float64) - correct_N, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(confidence_N))
