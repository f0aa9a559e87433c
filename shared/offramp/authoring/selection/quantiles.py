"""Thresholds from shares: a geometric share of the samples leaves at each exit, chosen to fit a budget.

Source: MSDNet, Huang et al. 2018, section 4.2, budgeted batch classification: the chance to leave at exit i is
proportional to q^i, and q follows from the budget. Accuracy plays no part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from offramp.authoring.evaluation.table import ExitTable
from offramp.errors import ConfigError

_DOUBLINGS = 60


def quantile_thetas(table: ExitTable, exit_macs: Sequence[int], *, max_macs: float) -> tuple[float, ...]:
    """The θ for shares of the form q^i whose mean cost comes closest to the budget without exceeding it.

    Args:
        table: of held-out samples.
        exit_macs: for each exit, multiplications of a sample that leaves there.
        max_macs: the budget, in multiplications per sample on average.

    Raises:
        ConfigError: leaving at exit 1 already costs more than the budget.
    """
    costs = np.array(exit_macs, dtype=np.float64)
    if costs[0] > max_macs:
        raise ConfigError(
            f"no thresholds cost at most {max_macs:.0f} multiplications; the least these exits cost is {costs[0]:.0f}"
        )
    low, high = -30.0, 30.0  # bounds of ln q: all leave at the first exit, all at the last
    for _ in range(_DOUBLINGS):
        middle = (low + high) / 2
        macs_mean = costs[table.exit_taken(_thetas(table, _shares(middle, table.num_exits)))].mean()
        low, high = (middle, high) if macs_mean <= max_macs else (low, middle)
    return _thetas(table, _shares(low, table.num_exits))


def _shares(log_q: float, exits: int) -> NDArray[np.float64]:
    powers = log_q * np.arange(exits)
    weights = np.exp(powers - powers.max())
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def _thetas(table: ExitTable, shares: NDArray[np.float64]) -> tuple[float, ...]:
    left_N, thetas = np.ones(table.num_samples, dtype=bool), []
    for exit, share in enumerate(shares[:-1]):
        wanted = round(share * table.num_samples)
        confidence_N = np.sort(table.confidence[left_N, exit])[::-1]
        thetas.append(_between(confidence_N, min(wanted, len(confidence_N))))
        left_N &= table.confidence[:, exit] < np.float32(thetas[-1])
    return tuple(thetas)


def _between(descending_N: NDArray[np.float32], wanted: int) -> float:
    """θ that at most `wanted` of the confidences reach, halfway between two of them."""
    if not wanted:
        return 1.0
    if wanted == len(descending_N):
        return 0.0
    # Confidences that tie with the first one left out are left out too.
    at = int(np.searchsorted(-descending_N, -descending_N[wanted], side="left"))
    return 1.0 if not at else float(np.float32((float(descending_N[at - 1]) + float(descending_N[at])) / 2))
