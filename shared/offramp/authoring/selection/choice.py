"""What every search for thresholds returns: the Pareto front, and the best choice on it within a budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.errors import ConfigError


@dataclass(frozen=True)
class Choice:
    """Thresholds, with their accuracy and cost on the samples of the search.

    mean_cost: of a sample, in the unit of the search: multiplications, milliseconds or bytes.
    """

    thetas: tuple[float, ...]
    accuracy: float
    mean_cost: float


@dataclass(frozen=True)
class Front:
    """The Pareto front: from the most accurate choice to the cheapest, each the cheapest with its accuracy.

    full_accuracy: of the last exit on the same samples.
    """

    path: Sequence[Choice]
    full_accuracy: float

    @classmethod
    def of(cls, choices: Iterable[Choice], full_accuracy: float) -> Front:
        """Drop every choice that another one beats in both accuracy and cost."""
        best: list[Choice] = []
        for choice in sorted(choices, key=lambda choice: (-choice.accuracy, choice.mean_cost)):
            if not best or choice.mean_cost < best[-1].mean_cost:
                best.append(choice)
        return cls(best, full_accuracy)

    def cheapest(self, *, max_drop: float) -> Choice:
        """The cheapest choice that is at most `max_drop` percentage points below the full network.

        Raises:
            ConfigError: there is none (the full network itself always is one for `max_drop` ≥ 0).
        """
        allowed = [choice for choice in self.path if self._is_within(choice, max_drop)]
        if not allowed:
            raise ConfigError(
                f"no thresholds reach {100 * self.full_accuracy - max_drop:.2f} %; the best these exits reach is "
                f"{100 * self.path[0].accuracy:.2f} %"
            )
        return allowed[-1]

    def reaches(self, max_drop: float) -> bool:
        """Whether any choice is at most `max_drop` percentage points below the full network."""
        return any(self._is_within(choice, max_drop) for choice in self.path)

    def _is_within(self, choice: Choice, max_drop: float) -> bool:
        return choice.accuracy >= self.full_accuracy - max_drop / 100 - 1e-12

    def most_accurate(self, *, max_cost: float, unit: str = "multiplications") -> Choice:
        """The most accurate choice that costs at most `max_cost` on average; `unit` is for the message.

        Raises:
            ConfigError: there is none; the message says how little these exits can cost.
        """
        allowed = [choice for choice in self.path if choice.mean_cost <= max_cost]
        if not allowed:
            raise ConfigError(
                f"no thresholds cost at most {max_cost:g} {unit}; the least these exits cost is "
                f"{self.path[-1].mean_cost:g}"
            )
        return allowed[0]


def candidates_of(confidence_N: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Candidates for one θ: 0, 1, and quantiles of the confidences in between; at most `steps` in all.

    Each lies halfway between two neighbouring confidences. None equals a confidence, so rounding changes no decision.
    """
    quantiles = np.sort(confidence_N)[
        np.linspace(0, len(confidence_N) - 1, max(steps - 1, 2)).astype(np.int64)[1:]
    ]
    values = np.unique(confidence_N)
    at = np.searchsorted(values, quantiles)
    at = at[at > 0]  # below the lowest confidence there is only 0, a candidate anyway
    between = (values[at - 1].astype(np.float64) + values[at]) / 2
    return np.unique(np.concatenate([[0.0, 1.0], between]).astype(np.float32))
