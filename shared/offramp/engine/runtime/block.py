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


@dataclass(frozen=True, eq=False, slots=True)
class BlockOutput:
    """Outputs of one block for B samples; None where the block has no such output.

    feature (B, …): input of the next block, float32, or uint8 if it is a bottleneck's code. probabilities (B, K) and
    confidence (B,): from its EEC.
    """

    feature: NDArray[Any] | None
    probabilities: NDArray[np.float32] | None
    confidence: NDArray[np.float32] | None


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
    wanted = ({"feature"} if block.feature else set()) | (
        {"probabilities", "confidence"} if block.exit else set()
    )
    if list(takes) != expected or set(returns) != wanted:
        raise BundleError(
            f"{bundle.directory / block.file} takes {takes} and returns {sorted(returns)}, but the manifest says "
            f"{expected} and {sorted(wanted)}; export the bundle again"
        )
