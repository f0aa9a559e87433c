"""Thresholds with a guarantee: P(risk ≤ ε) ≥ 1 − δ over the draw of the held-out samples.

Fixed-sequence Learn-then-Test (Angelopoulos et al. 2021, section 3): one half of the samples proposes a path of
thresholds, from the safest to the cheapest; the other half tests them in that order, each at level δ, and stops at
the first that fails. The order does not depend on the testing half, so no correction for multiple tests is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from offramp.authoring.data.split import hashed_order
from offramp.authoring.evaluation.table import ExitTable
from offramp.authoring.selection.choice import Choice
from offramp.authoring.selection.thresholds import search_thresholds
from offramp.bundle.manifest import RiskName
from offramp.errors import ConfigError
from offramp.record import Record


class Guarantee(Record):
    """The guarantee to keep: the chance that `risk` exceeds `epsilon` is at most `delta`."""

    risk: RiskName = "disagreement"
    epsilon: float = Field(gt=0, lt=1)
    delta: float = Field(default=0.1, gt=0, lt=1)

    @property
    def samples_needed(self) -> int:
        """Fewest testing samples that can show a risk of at most ε, even if not one of them fails."""
        return math.ceil(math.log(self.delta) / math.log1p(-self.epsilon))


@dataclass(frozen=True)
class Guaranteed:
    """The cheapest thresholds that passed, and the evidence."""

    thetas: tuple[float, ...]
    samples: int
    failures: int
    p_value: float


def halves(num_samples: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the held-out samples that propose thresholds, and of those that test them.

    Whatever is fitted before the test (temperatures, confidence heads, thresholds) must be fitted on the first half.
    """
    order = hashed_order(num_samples, seed=0)
    middle = num_samples // 2
    return order[:middle], order[middle:]


def choose_guaranteed(
    proposing: ExitTable, testing: ExitTable, exit_macs: Sequence[int], guarantee: Guarantee
) -> Guaranteed:
    """Find the cheapest thresholds whose risk is at most ε with confidence 1 − δ.

    Args:
        proposing: one half of the held-out samples; `correct` says where an exit does no harm under the risk.
        testing: the other half; no sample may be in both.
        exit_macs: for each exit, multiplications of a sample that leaves there.
        guarantee: ε, δ and the risk.

    Returns:
        The last point of the path that passed; if none did, θ = 1 everywhere, whose risk is 0 by definition.

    Raises:
        ConfigError: there are too few testing samples for any thresholds to pass; the message says how many it takes.
            Or what travels to the next tier is so lossy that even θ = 1 does not pass.
    """
    if testing.num_samples < guarantee.samples_needed:
        raise ConfigError(
            f"{testing.num_samples} testing samples cannot show a risk of at most {guarantee.epsilon:g} with "
            f"delta {guarantee.delta:g}; hold out at least {2 * guarantee.samples_needed}, half of them for the test"
        )
    passed = None
    for choice in search_thresholds(proposing, exit_macs).path:
        tested = _test(choice, testing, guarantee)
        if tested.p_value > guarantee.delta:
            break
        passed = tested
    if passed is None and not testing.correct[:, -1].all():
        raise ConfigError(
            f"no thresholds keep the {guarantee.risk} at {guarantee.epsilon:g}, because the last exit itself answers "
            f"from a lossy picture: {(~testing.correct[:, -1]).mean():.1%} of its answers fail; give --payload exact, "
            "or a higher quality"
        )
    return passed or Guaranteed((1.0,) * (testing.num_exits - 1), testing.num_samples, 0, 0.0)


def binomial_p_value(failures: int, samples: int, epsilon: float) -> float:
    """Chance of at most this many failures if the risk were exactly ε: P(Bin(n, ε) ≤ k), exact."""
    from scipy.special import bdtr  # imported here because it takes a quarter of a second

    return float(bdtr(failures, samples, epsilon))


def _test(choice: Choice, testing: ExitTable, guarantee: Guarantee) -> Guaranteed:
    harmless_N = testing.correct_at(testing.exit_taken(choice.thetas))
    failures = int((~harmless_N).sum())
    p_value = binomial_p_value(failures, testing.num_samples, guarantee.epsilon)
    return Guaranteed(choice.thetas, testing.num_samples, failures, p_value)
