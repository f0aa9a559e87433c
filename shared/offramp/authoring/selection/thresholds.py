"""The exact search for thresholds, on cached confidences of held-out samples.

Every combination of candidate θ is tried at once: samples fall into the cells of a grid, one axis per early
exit, and sums over the cells give accuracy and cost of all combinations. Shapes: N samples, E exits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.authoring.evaluation.table import ExitTable
from offramp.authoring.selection.choice import Choice, Front, candidates_of
from offramp.authoring.selection.coordinate import descend_all_prices
from offramp.errors import ConfigError

_MAX_CELLS = 50_000_000
_GRID_EXITS = 2


@dataclass(frozen=True, eq=False)
class ThresholdGrid:
    """Accuracy and mean cost of every combination of candidates, one axis per early exit."""

    candidates: Sequence[NDArray[np.float32]]
    accuracy: NDArray[np.float64]
    mean_cost: NDArray[np.float64]
    full_accuracy: float

    def front(self) -> Front:
        """The Pareto front of all combinations."""
        # Sums in another order differ in the last bit; rounding keeps equal values equal.
        accuracy, cost = self.accuracy.ravel().round(12), self.mean_cost.ravel().round(6)
        order = np.lexsort((cost, -accuracy))
        cheapest_so_far = np.minimum.accumulate(cost[order])
        is_new = np.r_[True, cheapest_so_far[1:] < cheapest_so_far[:-1]]
        return Front([self._choice(flat) for flat in order[is_new]], self.full_accuracy)

    def _choice(self, flat: np.intp) -> Choice:
        at = np.unravel_index(flat, self.accuracy.shape)
        thetas = tuple(float(axis[i]) for axis, i in zip(self.candidates, at, strict=True))
        return Choice(thetas, float(self.accuracy[at]), float(self.mean_cost[at]))


def search_thresholds(table: ExitTable, exit_costs: Sequence[float], *, steps: int = 201) -> Front:
    """Find the Pareto front of thresholds: exactly for up to two early exits, by coordinate descent for more.

    Args:
        table: of held-out samples, never the ones that a result is reported on.
        exit_costs: for each exit, the cost of a sample that leaves there, EECs included, in any unit.
        steps: candidates per exit: 0, 1, and the quantiles of its confidences in between.

    Raises:
        ConfigError: there are no samples.
    """
    if not table.num_samples:
        raise ConfigError("a search for thresholds needs samples, got none")
    if table.num_exits - 1 > _GRID_EXITS:
        return descend_all_prices(table, exit_costs, steps=steps)
    return search_grid(table, exit_costs, steps=steps).front()


def search_grid(table: ExitTable, exit_costs: Sequence[float], *, steps: int = 201) -> ThresholdGrid:
    """Try every combination of `steps` candidates per early exit.

    Args:
        table: of held-out samples, never the ones that a result is reported on.
        exit_costs: for each exit, the cost of a sample that leaves there, EECs included, in any unit.
        steps: candidates per exit: 0, 1, and the quantiles of its confidences in between.

    Raises:
        ConfigError: there are no samples, or more combinations than fit into memory.
    """
    early = table.num_exits - 1
    if not table.num_samples:
        raise ConfigError("a search for thresholds needs samples, got none")
    if steps**early > _MAX_CELLS:
        raise ConfigError(
            f"{steps} steps for each of {early} exits are too many combinations; take fewer steps"
        )
    candidates = [candidates_of(table.confidence[:, exit], steps) for exit in range(early)]
    # A sample stops at exit i if candidate j ≤ its confidence, that is, if j comes before its position on that axis.
    positions = [
        np.searchsorted(axis, table.confidence[:, exit], side="right") for exit, axis in enumerate(candidates)
    ]
    sums = np.zeros((2, *(len(axis) for axis in candidates)))
    for exit in range(table.num_exits):
        weights = np.stack(
            [table.correct[:, exit].astype(np.float64), np.full(table.num_samples, float(exit_costs[exit]))]
        )
        sums += _leaving(weights, positions, [len(axis) for axis in candidates], exit)
    accuracy, mean_cost = sums / table.num_samples
    return ThresholdGrid(candidates, accuracy, mean_cost, float(table.full_correct.mean()))


def _leaving(
    weights: NDArray[np.float64], positions: Sequence[NDArray[np.intp]], sizes: Sequence[int], exit: int
) -> NDArray[np.float64]:
    """Sums of the weights (2, N) of the samples that leave at one exit, for every combination (2, *sizes).

    A sample leaves there if no earlier exit stops it (position ≤ that exit's candidate) and this one does
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
