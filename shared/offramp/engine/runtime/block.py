"""The interface of every runtime: a block that takes a batch and returns what its graph computes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.bundle.manifest import Block
from offramp.errors import BundleError

# What a graph may return, in the order of `BlockOutput`'s fields.
OUTPUT_NAMES = ("feature", "probabilities", "confidence", "distance")


@dataclass(frozen=True, eq=False, slots=True)
class BlockOutput:
    """Outputs of one block for B samples; None where the block has no such output.

    feature (B, …): input of the next block, float32, or uint8 if it is a bottleneck's code. probabilities (B, K) and
    confidence (B,): from its EEC. distance (B,): from its guard; above 1 the sample is unfamiliar.
    """

    feature: NDArray[Any] | None
    probabilities: NDArray[np.float32] | None
    confidence: NDArray[np.float32] | None
    distance: NDArray[np.float32] | None = None

    @property
    def verdicts(self) -> list[tuple[float, bool]]:
        """The EEC's confidence in each sample, and whether its guard finds the sample unfamiliar.

        The confidence in an unfamiliar sample is 0, so only an exit that always answers would answer it.
        """
        assert self.confidence is not None, "only a block with an exit has verdicts"
        confidences = self.confidence.tolist()
        if self.distance is None:
            return [(confidence, False) for confidence in confidences]
        # A distance that is not a number is as unfamiliar as can be.
        return [
            (confidence, False) if distance <= 1 else (0.0, True)
            for confidence, distance in zip(confidences, self.distance.tolist(), strict=True)
        ]


class BlockRunner(Protocol):
    """One block, ready to run. Safe to call from several threads."""

    def run(self, batch: NDArray[Any]) -> BlockOutput:
        """Run the block on a batch (B, …) of its input shape and dtype."""
        ...


def check_signature(
    block: Block, bundle: Bundle, *, takes: Sequence[tuple[str, tuple[Any, ...]]], returns: Collection[str]
) -> None:
    """Check the inputs and outputs of a graph against the manifest.

    Args:
        block: the block's entry in the manifest.
        bundle: bundle of the graph, for the error message.
        takes: dtype and shape, without the batch, of each input of the graph.
        returns: names of its outputs.

    Raises:
        BundleError: they differ.
    """
    expected = [(block.input.dtype, block.input.shape)]
    wanted = {"feature"} if block.feature else set()
    if block.exit:
        wanted |= {"probabilities", "confidence"} | ({"distance"} if block.exit.guard else set())
    if list(takes) != expected or set(returns) != wanted:
        raise BundleError(
            f"{bundle.directory / block.file} takes {takes} and returns {sorted(returns)}, but the manifest says "
            f"{expected} and {sorted(wanted)}; export the bundle again"
        )
