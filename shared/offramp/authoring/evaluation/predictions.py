"""Every exit's prediction for every image, from the same graphs that serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from offramp.authoring.data.photos import Pixels, batches
from offramp.authoring.evaluation.table import ExitTable
from offramp.bundle import Bundle
from offramp.bundle.manifest import RiskName
from offramp.engine.aggregation import confidence_of, joined, rooted
from offramp.engine.runtime import Runtime, load_blocks
from offramp.wire.codec import encode_feature


@dataclass(frozen=True, eq=False)
class ExitPredictions:
    """What every exit answers for every image.

    confidence: (N, E), in [0, 1). probabilities: (N, E, K). In both, the last exit answers as it does in the bundle,
    alone or aggregated. payload_bytes: (N,), size of the feature at the default operating point's split point, encoded
    as it would be sent, one image at a time.
    """

    confidence: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    payload_bytes: NDArray[np.int64]

    @property
    def class_index(self) -> NDArray[np.int64]:
        """Predicted class (N, E) of every exit."""
        classes: NDArray[np.int64] = self.probabilities.argmax(axis=2)
        return classes

    def against(self, classes_N: NDArray[np.int64]) -> ExitTable:
        """These predictions, judged right or wrong by the true classes."""
        return ExitTable(self.confidence, self.class_index == classes_N[:, np.newaxis])

    def harmless(self, risk: RiskName, classes_N: NDArray[np.int64]) -> ExitTable:
        """These predictions, judged right wherever leaving avoids what `risk` counts, as the last exit always does.

        Disagreement needs no labels, so it ignores `classes_N`.
        """
        if risk == "disagreement":
            return self.against(self.class_index[:, -1])
        right = self.against(classes_N)
        return ExitTable(self.confidence, right.correct | ~right.correct[:, -1:])


def predict_every_exit(
    bundle: Bundle,
    pixels: Pixels,
    *,
    runtime: Runtime = "onnx",
    advance: Callable[[int], None] = lambda _: None,
) -> ExitPredictions:
    """Run all blocks on all images, one image at a time, as a node does.

    One at a time on purpose: a runtime may sum in another order for a batch, and the decisions we evaluate must
    equal the served ones bit for bit. On a CPU a batch would hardly be faster.

    Args:
        bundle: verified.
        pixels: uint8 (N, H, W, C), at the size and mode of the bundle's preprocessing.
        runtime: what runs the blocks; give the one that the node uses.
        advance: called with the number of images done since the last call.
    """
    manifest = bundle.manifest
    blocks = load_blocks(bundle, 1, len(manifest.blocks), runtime=runtime)
    confidence = np.empty((len(pixels), manifest.num_exits), dtype=np.float32)
    probabilities = np.empty((len(pixels), manifest.num_exits, len(manifest.labels)), dtype=np.float32)
    split_point = manifest.operating_point.split_point
    codec = manifest.codec_at(split_point)
    payload_bytes = np.zeros(len(pixels), dtype=np.int64)
    for sample, image in enumerate(chain.from_iterable(batches(pixels))):
        batch, exit = image[np.newaxis], 0
        for block, described in zip(blocks, manifest.blocks, strict=True):
            output = block.run(batch)
            if output.probabilities is not None and output.confidence is not None:
                confidence[sample, exit] = output.confidence[0]
                probabilities[sample, exit] = output.probabilities[0]
                exit += 1
            if output.feature is not None:
                batch = output.feature
                if described.number == split_point - 1:
                    payload_bytes[sample] = len(encode_feature(batch, codec, described.levels).payload)
        if manifest.aggregates:
            *passed, last_K = probabilities[sample]
            mean_K = rooted(joined(last_K, passed), manifest.num_exits)
            probabilities[sample, -1], confidence[sample, -1] = mean_K, confidence_of(mean_K)
        advance(1)
    return ExitPredictions(confidence, probabilities, payload_bytes)
