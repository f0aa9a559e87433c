"""What every exit answers for every sample: all that is needed to choose and judge thresholds.

Shapes: N samples, E exits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ExitTable:
    """What every exit answers for every sample, as if no sample ever left early.

    confidence: (N, E), in [0, 1). correct: (N, E).
    """

    confidence: NDArray[np.float32]
    correct: NDArray[np.bool_]

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.confidence)

    @property
    def num_exits(self) -> int:
        """E, the last exit included."""
        return int(self.confidence.shape[1])

    def take(self, index: NDArray[np.int64]) -> ExitTable:
        """The samples at these positions."""
        return ExitTable(self.confidence[index], self.correct[index])

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
