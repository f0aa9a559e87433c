"""The search for thresholds of many exits: one θ at a time, on cached held-out confidences.

The exact grid grows exponentially with the number of exits. Here each step tries all candidates of one exit, keeps the
other θ fixed and takes the best candidate, until nothing improves. Unlike the grid, this may miss the best thresholds.
Shapes: N samples, A candidates of one exit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.authoring.evaluation.table import ExitTable
from offramp.authoring.selection.choice import Choice, Front, candidates_of

_PRICES = 60


def descend_all_prices(table: ExitTable, exit_costs: Sequence[float], *, steps: int) -> Front:
    """Minimise mean cost + price · error for many prices, from accuracy at any cost to the lowest cost.

    Args:
        table: of held-out samples.
        exit_costs: for each exit, the cost of a sample that leaves there, in any unit.
        steps: candidates per exit.
    """
    early = table.num_exits - 1
    axes = [candidates_of(table.confidence[:, exit], steps) for exit in range(early)]
    search = _Search(table, np.array(exit_costs, dtype=np.float64), axes)
    thetas: tuple[float, ...] = (1.0,) * early
    ends = {thetas, (0.0,) * early}
    # From the highest price to the lowest and back; each descent starts where the last one ended.
    prices = np.geomspace(1000, 0.01, _PRICES) * max(exit_costs)
    for price in [*prices, *prices[::-1]]:
        thetas = search.descend(thetas, price)
        ends.add(thetas)
    full_accuracy = float(table.full_correct.mean())
    return Front.of((choice for end in ends for choice in search.around(end)), full_accuracy)


@dataclass(frozen=True, eq=False)
class _Search:
    table: ExitTable
    exit_costs: NDArray[np.float64]
    axes: Sequence[NDArray[np.float32]]

    def descend(self, thetas: tuple[float, ...], price: float) -> tuple[float, ...]:
        """Change one θ after the other until no change helps."""
        while True:
            before = thetas
            for exit, axis in enumerate(self.axes):
                accuracy_A, cost_A = self._along(thetas, exit)
                best = float(axis[(cost_A + price * (1 - accuracy_A)).argmin()])
                thetas = (*thetas[:exit], best, *thetas[exit + 1 :])
            if thetas == before:
                return thetas

    def around(self, thetas: tuple[float, ...]) -> Iterator[Choice]:
        """These θ, and all combinations that differ from them in a single θ."""
        for exit, axis in enumerate(self.axes):
            for candidate, accuracy, cost in zip(axis, *self._along(thetas, exit), strict=True):
                changed = (*thetas[:exit], float(candidate), *thetas[exit + 1 :])
                yield Choice(changed, round(float(accuracy), 12), round(float(cost), 6))

    def _along(self, thetas: tuple[float, ...], exit: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Accuracy (A,) and mean cost (A,) for every candidate of one exit, with the other θ fixed."""
        taken_N = self.table.exit_taken((*thetas[:exit], 1.0, *thetas[exit + 1 :]))
        here_N = taken_N > exit  # samples that reach this exit; those it does not stop leave later
        confidence_N = self.table.confidence[here_N, exit]
        order = np.argsort(-confidence_N, kind="stable")
        # A sample stops here if its confidence reaches the candidate, so sum up from the most confident one.
        stopped_A = np.searchsorted(-confidence_N[order], -self.axes[exit], side="right")
        sums = []
        for here, there in (
            (self.table.correct[:, exit], self.table.correct_at(taken_N)),
            (self.exit_costs[exit], self.exit_costs[taken_N]),
        ):
            gain_N = (here - there.astype(np.float64))[here_N][order]
            sums.append((there.sum() + np.concatenate([[0.0], gain_N.cumsum()])[stopped_A]) / len(taken_N))
        return sums[0], sums[1]
