"""The search for thresholds: exact, on cached confidences of held-out samples.

Every combination of candidate θ is tried at once: samples fall into the cells of a grid, one axis per early
exit, and sums over the cells give accuracy and cost of all combinations. Shapes: N samples, E exits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.errors import ConfigError
from offramp.evaluation.table import ExitTable

_MAX_CELLS = 50_000_000


@dataclass(frozen=True)
class Choice:
    """Thresholds, and what they do on the samples they were searched on."""

    thetas: tuple[float, ...]
    accuracy: float
    macs_mean: float


@dataclass(frozen=True, eq=False)
class ThresholdGrid:
    """Accuracy and mean cost of every combination of candidates, one axis per early exit."""

    candidates: Sequence[NDArray[np.float32]]
    accuracy: NDArray[np.float64]
    macs_mean: NDArray[np.float64]
    full_accuracy: float

    def cheapest(self, *, max_drop: float) -> Choice:
        """The cheapest combination that is at most `max_drop` percentage points below the full network.

        Raises:
            ConfigError: there is none (the full network itself always is one for `max_drop` ≥ 0).
        """
        allowed = self.accuracy >= self.full_accuracy - max_drop / 100 - 1e-12
        if not allowed.any():
            raise ConfigError(
                f"no thresholds reach {100 * self.full_accuracy - max_drop:.2f} %; the best these exits reach is "
                f"{100 * self.accuracy.max():.2f} %"
            )
        return self._best(allowed, self.macs_mean, -self.accuracy)

    def surest(self, *, max_macs: float) -> Choice:
        """The most accurate combination that costs at most `max_macs` multiplications on average.

        Raises:
            ConfigError: there is none; the message says what the least is.
        """
        allowed = self.macs_mean <= max_macs
        if not allowed.any():
            raise ConfigError(
                f"no thresholds cost at most {max_macs:.0f} multiplications; the least these exits cost is "
                f"{self.macs_mean.min():.0f}"
            )
        return self._best(allowed, -self.accuracy, self.macs_mean)

    def path(self) -> Sequence[Choice]:
        """The Pareto front: from the most accurate combination to the cheapest, each the cheapest of its accuracy."""
        accuracy, macs = self.accuracy.ravel(), self.macs_mean.ravel()
        order = np.lexsort((macs, -accuracy))
        cheapest_so_far = np.minimum.accumulate(macs[order])
        is_new = np.r_[True, cheapest_so_far[1:] < cheapest_so_far[:-1]]
        return [self._choice(flat) for flat in order[is_new]]

    def _best(
        self, allowed: NDArray[np.bool_], first: NDArray[np.float64], second: NDArray[np.float64]
    ) -> Choice:
        """The allowed combination with the least `first`, and among those alike the least `second`."""
        least = np.where(allowed, first, np.inf)
        alike = np.isclose(least, least.min(), rtol=1e-9, atol=1e-12)
        return self._choice(np.where(alike, second, np.inf).argmin())

    def _choice(self, flat: np.intp) -> Choice:
        at = np.unravel_index(flat, self.accuracy.shape)
        thetas = tuple(float(axis[i]) for axis, i in zip(self.candidates, at, strict=True))
        return Choice(thetas, float(self.accuracy[at]), float(self.macs_mean[at]))


def search_thresholds(table: ExitTable, exit_macs: Sequence[int], *, steps: int = 201) -> ThresholdGrid:
    """Try every combination of `steps` candidates per early exit.

    Args:
        table: of held-out samples, never of the ones a result is reported on.
        exit_macs: multiplications of a sample that leaves at each exit, EECs on its way included.
        steps: candidates per exit: 0, 1, and the quantiles of its confidences in between.

    Raises:
        ConfigError: no samples, or more combinations than fit into memory.
    """
    early = table.num_exits - 1
    if not table.num_samples:
        raise ConfigError("thresholds are searched on samples, got none")
    if steps**early > _MAX_CELLS:
        raise ConfigError(
            f"{steps} steps for each of {early} exits are too many combinations; take fewer steps"
        )
    candidates = [_candidates(table.confidence[:, exit], steps) for exit in range(early)]
    # A sample leaves at exit i when candidate j ≤ its confidence, so when j lies before its position there.
    positions = [
        np.searchsorted(axis, table.confidence[:, exit], side="right") for exit, axis in enumerate(candidates)
    ]
    sums = np.zeros((2, *(len(axis) for axis in candidates)))
    for exit in range(table.num_exits):
        weights = np.stack(
            [table.correct[:, exit].astype(np.float64), np.full(table.num_samples, float(exit_macs[exit]))]
        )
        sums += _leaving(weights, positions, [len(axis) for axis in candidates], exit)
    accuracy, macs_mean = sums / table.num_samples
    return ThresholdGrid(candidates, accuracy, macs_mean, float(table.correct[:, -1].mean()))


def _candidates(confidence_N: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    # Halfway between two neighbouring samples: no confidence lies on a θ, so rounding cannot tip a decision.
    quantiles = np.sort(confidence_N)[
        np.linspace(0, len(confidence_N) - 1, max(steps - 1, 2)).astype(np.int64)[1:]
    ]
    values = np.unique(confidence_N)
    at = np.searchsorted(values, quantiles)
    at = at[at > 0]  # below the lowest lies 0, which is a candidate anyway
    between = (values[at - 1].astype(np.float64) + values[at]) / 2
    return np.unique(np.concatenate([[0.0, 1.0], between]).astype(np.float32))


def _leaving(
    weights: NDArray[np.float64], positions: Sequence[NDArray[np.intp]], sizes: Sequence[int], exit: int
) -> NDArray[np.float64]:
    """Sums of the weights (2, N) of the samples that leave at one exit, for every combination (2, *sizes).

    They leave there when no earlier exit stops them (position ≤ its candidate) and this one does
    (position > its candidate); the candidates of later exits do not matter.
    """
    early = len(sizes)
    axes = min(exit + 1, early)
    shape = tuple(size + 1 for size in sizes[:axes])
    if not axes:
        total: NDArray[np.float64] = weights.sum(axis=1)
        return total
    cells = np.ravel_multi_index(tuple(positions[:axes]), shape)
    sums: NDArray[np.float64] = np.stack(
        [np.bincount(cells, row, minlength=math.prod(shape)).astype(np.float64) for row in weights]
    ).reshape(2, *shape)
    for axis in range(axes):
        if axis < exit:
            sums = sums.cumsum(axis + 1)[_slice(axis + 1, slice(None, -1))]
        else:
            reversed_sums = np.flip(np.flip(sums, axis + 1).cumsum(axis + 1), axis + 1)
            sums = reversed_sums[_slice(axis + 1, slice(1, None))]
    return sums.reshape(*sums.shape, *(1 for _ in range(early - axes)))


def _slice(axis: int, along: slice) -> tuple[slice, ...]:
    return (*(slice(None) for _ in range(axis)), along)
