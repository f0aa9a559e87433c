"""Every exit's prediction for every image, from the same graphs that serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.authoring.data.photos import Pixels, batches
from offramp.authoring.evaluation.judging import is_right, said_of
from offramp.authoring.evaluation.offloads import OffloadCount, Offloads
from offramp.authoring.evaluation.table import ExitTable
from offramp.bundle import Bundle
from offramp.bundle.manifest import Payload, RiskName
from offramp.bundle.task import SINGLE_LABEL, Task
from offramp.engine.aggregation import confidence_of, joined, rooted
from offramp.engine.payload import PayloadRule, decode_pixels, is_lossy
from offramp.engine.runtime import Runtime, load_blocks
from offramp.wire.codec import encode_feature


@dataclass(frozen=True, eq=False)
class ExitPredictions:
    """What every exit answers for every image, as `Task` describes it.

    confidence: (N, E), in [0, 1). probabilities: (N, E, K), or (N, E, 2) for a regression. In both, the last exit
    answers as it does in the bundle, alone or aggregated. Where the payload is lossy, the exits behind the split answer
    from what arrives there. offloads: what the samples would send; None if all blocks are one. exact: (N, K), what the
    last exit answers where nothing is lost on the way; None if nothing ever is. unfamiliar: (N, E), what each exit's
    guard finds, if the bundle has one; such an exit's confidence is 0.
    """

    confidence: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    offloads: Offloads | None
    exact: NDArray[np.float32] | None = None
    unfamiliar: NDArray[np.bool_] | None = None
    task: Task = SINGLE_LABEL

    @property
    def said(self) -> NDArray[Any]:
        """What every exit answers: classes (N, E), labels (N, E, K) or values (N, E)."""
        return said_of(self.task, self.probabilities)

    @property
    def full(self) -> NDArray[Any]:
        """What the whole network on one machine answers: classes (N,), labels (N, K) or values (N,)."""
        return said_of(self.task, self.probabilities[:, -1] if self.exact is None else self.exact)

    def against(self, truth_N: NDArray[Any]) -> ExitTable:
        """These predictions, judged right or wrong by the truth: classes (N,), labels (N, K) or values (N,)."""
        full_N = None if self.exact is None else is_right(self.task, self.full, truth_N)
        return ExitTable(self.confidence, is_right(self.task, self.said, truth_N[:, np.newaxis]), full_N)

    def unfamiliar_at(self, taken_N: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Which samples (N,) are unfamiliar to an exit they come to, if they leave at the one with that index."""
        if self.unfamiliar is None:
            return None
        found_NE = np.logical_or.accumulate(self.unfamiliar, axis=1)
        found_N: NDArray[np.bool_] = found_NE[np.arange(len(taken_N)), taken_N]
        return found_N

    def harmless(self, risk: RiskName, truth_N: NDArray[Any]) -> ExitTable:
        """These predictions, judged right wherever leaving avoids what `risk` counts, as the last exit always does.

        Disagreement needs no truth, so it ignores `truth_N`.
        """
        if risk == "disagreement":
            return self.against(self.full)
        right = self.against(truth_N)
        return ExitTable(self.confidence, right.correct | ~right.full_correct[:, np.newaxis])


def predict_every_exit(
    bundle: Bundle,
    pixels: Pixels,
    *,
    runtime: Runtime = "onnx",
    file_bytes: NDArray[np.int64] | None = None,
    payload: Payload | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> ExitPredictions:
    """Run all blocks on all images, one image at a time, as a node does.

    One at a time on purpose: a runtime may sum in another order for a batch, and the decisions we evaluate must
    equal the served ones bit for bit. On a CPU a batch would hardly be faster.

    Args:
        bundle: verified.
        pixels: uint8 (N, H, W, C), at the size and mode of the bundle's preprocessing.
        runtime: what runs the blocks; give the one that the node uses.
        file_bytes: (N,), sizes of the files they came as; 0 where there is none, as for all of them by default.
        payload: what samples travel as; by default as at the bundle's default operating point.
        advance: called with the number of images done since the last call.
    """
    run = _Run(bundle, runtime, payload, len(pixels))
    for sample, image in enumerate(chain.from_iterable(batches(pixels))):
        run.predict(sample, image, 0 if file_bytes is None else int(file_bytes[sample]))
        advance(1)
    offloads = run.count.offloads() if run.count else None
    return ExitPredictions(
        run.confidence,
        run.probabilities,
        offloads,
        run.exact if run.is_lossy else None,
        run.unfamiliar if bundle.manifest.is_guarded else None,
        bundle.manifest.task,
    )


class _Run:
    """Fills the arrays of an `ExitPredictions`, sample by sample."""

    def __init__(self, bundle: Bundle, runtime: Runtime, payload: Payload | None, samples: int) -> None:
        self._manifest = manifest = bundle.manifest
        self._blocks = load_blocks(bundle, 1, len(manifest.blocks), runtime=runtime)
        self._split_point = manifest.operating_point.split_point
        self._codec = manifest.codec_at(self._split_point)
        self.confidence = np.empty((samples, manifest.num_exits), dtype=np.float32)
        outputs = manifest.task.num_outputs(len(manifest.labels))
        self.probabilities = np.empty((samples, manifest.num_exits, outputs), dtype=np.float32)
        self.exact = np.empty((samples, outputs), dtype=np.float32)
        self.unfamiliar = np.zeros((samples, manifest.num_exits), dtype=np.bool_)
        self.count, self.is_lossy = None, False
        if len(manifest.blocks) > 1:
            self._rule = PayloadRule.at(manifest, self._split_point, payload)
            self.count = OffloadCount(manifest, self._rule, self._split_point)
            self.is_lossy = is_lossy(self._rule.payload)

    def predict(self, sample: int, image_HWC: NDArray[np.uint8], file_bytes: int) -> None:
        feature_bytes = self._fill(sample, image_HWC)
        if self.count:
            sent, picture = self._rule.choose(file_bytes, image_HWC)
            sizes = {"feature": feature_bytes, "image": file_bytes, "pixels": len(picture)}
            self.count.add(sent, sizes[sent])
            if self.is_lossy:
                self._aggregate(sample)
                self.exact[sample] = self.probabilities[sample, -1]
                self._fill_behind(sample, picture)
                return
        self._aggregate(sample)

    def _fill_behind(self, sample: int, picture: bytes) -> None:
        """Let the exits behind the split answer again, from a lossy picture."""
        here = sum(block < self._split_point for block in self._manifest.exit_blocks)
        kept = [
            array[sample, :here].copy() for array in (self.confidence, self.probabilities, self.unfamiliar)
        ]
        self._fill(sample, decode_pixels(picture, self._manifest.preprocessing))
        self._aggregate(sample)  # the next tier passes all exits itself, and aggregates what they say there
        self.unfamiliar[sample, here] |= self.unfamiliar[sample, :here].any()
        self.confidence[sample, :here], self.probabilities[sample, :here], self.unfamiliar[sample, :here] = (
            kept
        )

    def _fill(self, sample: int, image_HWC: NDArray[np.uint8]) -> int:
        """Run all blocks, keep what the exits answer, and return the bytes of the feature at the split."""
        batch, exit, feature_bytes = image_HWC[np.newaxis], 0, 0
        for block, described in zip(self._blocks, self._manifest.blocks, strict=True):
            output = block.run(batch)
            if output.probabilities is not None and output.confidence is not None:
                ((self.confidence[sample, exit], self.unfamiliar[sample, exit]),) = output.verdicts
                self.probabilities[sample, exit] = output.probabilities[0]
                exit += 1
            if output.feature is not None:
                batch = output.feature
                if described.number == self._split_point - 1:
                    feature_bytes = len(encode_feature(batch, self._codec, described.levels).payload)
        return feature_bytes

    def _aggregate(self, sample: int) -> None:
        if self._manifest.aggregates:
            *passed, last_K = self.probabilities[sample]
            mean_K = rooted(joined(last_K, passed), self._manifest.num_exits)
            self.probabilities[sample, -1], self.confidence[sample, -1] = mean_K, confidence_of(mean_K)
