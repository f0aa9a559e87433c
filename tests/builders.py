"""Stand-ins for our own Protocols, and manifests without files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Manifest, OperatingPoint, Preprocessing
from offramp.bundle.manifest import Block, Exit, Tensor, manifest_of
from offramp.engine.runtime import BlockOutput


class ScriptedBlock:
    """A block that returns the confidences a test gives it, and remembers the samples it was asked about.

    A sample is one number: its index in `confidences`. The feature that it passes on is the sample itself.
    """

    def __init__(self, confidences: Sequence[float] | None) -> None:
        self.seen: list[list[int]] = []
        self._confidences = None if confidences is None else np.array(confidences, dtype=np.float32)

    def run(self, batch: NDArray[Any]) -> BlockOutput:
        """Give each sample its scripted confidence."""
        samples = batch[:, 0].astype(int)
        self.seen.append(samples.tolist())
        feature = batch.astype(np.float32)
        if self._confidences is None:
            return BlockOutput(feature, None, None)
        probabilities = np.full((len(batch), 2), 0.5, dtype=np.float32)
        return BlockOutput(feature, probabilities, self._confidences[samples])


def samples(count: int) -> NDArray[np.float32]:
    """A batch of `count` samples for scripted blocks."""
    return np.arange(count, dtype=np.float32)[:, np.newaxis]


def manifest_with(exits: Sequence[bool], **changes: Any) -> Manifest:
    """A manifest with one block for each value of `exits`, which says whether the block has an EEC.

    Block b costs 100 · b multiplications, its EEC 10 · b.
    """
    tensor = Tensor(shape=(1,), dtype="float32")
    pixels = Tensor(shape=(1, 1, 1), dtype="uint8")
    blocks = tuple(
        Block(
            number=number,
            file=f"block-{number}.onnx",
            sha256=f"{number:064x}",
            input=pixels if number == 1 else tensor,
            feature=tensor if number < len(exits) else None,
            macs=100 * number,
            exit=Exit(number=sum(exits[:number]), measure="max_softmax", temperature=1.0, macs=10 * number)
            if has_exit
            else None,
        )
        for number, has_exit in enumerate(exits, start=1)
    )
    parts: dict[str, Any] = {
        "name": "scripted",
        "labels": ("no", "yes"),
        "preprocessing": Preprocessing(height=1, width=1, mode="L", mean=(0.0,), std=(1.0,)),
        "blocks": blocks,
        "operating_points": (OperatingPoint(name="full", thetas=(1.0,) * (sum(exits) - 1), split_point=2),),
        "default_operating_point": "full",
    }
    return manifest_of(**{**parts, **changes})
