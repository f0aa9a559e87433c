"""What every exit answers for every sample: all that is needed to choose and judge thresholds.

Shapes: N samples, E exits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.errors import ConfigError


@dataclass(frozen=True, eq=False)
class ExitTable:
    """What every exit answers for every sample, as if no sample ever left early.

    confidence: (N, E), in [0, 1). correct: (N, E). full: (N,), where the whole network on one machine is right; that is
    the last exit, unless what travels to it is lossy.
    """

    confidence: NDArray[np.float32]
    correct: NDArray[np.bool_]
    full: NDArray[np.bool_] | None = None

    @property
    def full_correct(self) -> NDArray[np.bool_]:
        """Where the full network is right (N,)."""
        correct_N: NDArray[np.bool_] = self.correct[:, -1] if self.full is None else self.full
        return correct_N

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.confidence)

    @property
    def num_exits(self) -> int:
        """E, the last exit included."""
        return int(self.confidence.shape[1])

    def check_confidences(self) -> None:
        """Check that thresholds can tell the samples of every early exit apart.

        Raises:
            ConfigError: an exit is equally confident in all samples, though not right about all, or its confidence is
                not a number.
        """
        for number, (confidence_N, correct_N) in enumerate(
            zip(self.confidence.T[:-1], self.correct.T[:-1], strict=True), start=1
        ):
            if broken := int(np.isnan(confidence_N).sum()):
                raise ConfigError(
                    f"exit {number}: its confidence is not a number for {broken} of {self.num_samples} samples; its "
                    "weights or its logits are not finite, so train it again with a lower learning rate"
                )
            if confidence_N.min() == confidence_N.max() and not correct_N.all():
                raise ConfigError(
                    f"exit {number} is equally confident ({confidence_N[0]:g}) in all {self.num_samples} samples, "
                    f"though right about {correct_N.mean():.1%} of them, so no threshold can tell them apart; train it "
                    "longer, or export it with another --measure"
                )

    def take(self, index: NDArray[np.int64]) -> ExitTable:
        """The samples at these positions."""
        full = None if self.full is None else self.full[index]
        return ExitTable(self.confidence[index], self.correct[index], full)

    def exit_taken(self, thetas: Sequence[float]) -> NDArray[np.int64]:
        """Index (N,), from 0, of the exit at which each sample leaves: the first that is confident enough."""
        stops = self.confidence >= np.array([*thetas, 0.0], dtype=np.float32)
        stops[:, -1] = True
        taken: NDArray[np.int64] = stops.argmax(axis=1)
        return taken

    def correct_at(self, taken_N: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each sample's answer is right (N,) if it leaves at the exit with that index."""
        right: NDArray[np.bool_] = self.correct[np.arange(self.num_samples), taken_N]
        return right
