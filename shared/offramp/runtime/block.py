"""What every runtime gives: a block that takes a batch and returns what its graph computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, slots=True)
class BlockOutput:
    """Outputs of one block for B samples; None where the block has no such output.

    feature (B, …): input of the next block, float32, or uint8 where it is a bottleneck's code. probabilities (B, K) and
    confidence (B,): of its EEC.
    """

    feature: NDArray[Any] | None
    probabilities: NDArray[np.float32] | None
    confidence: NDArray[np.float32] | None


class BlockRunner(Protocol):
    """One block, ready to run. Safe to call from several threads."""

    def run(self, batch: NDArray[Any]) -> BlockOutput:
        """Run the block on a batch (B, …) of its input shape and dtype."""
        ...
