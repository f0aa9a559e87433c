"""Proves that a bundle computes the same as its network, on the runtime that serves it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.authoring.networks.confidence import Confidence
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.normalise import Normalise
from offramp.bundle import Bundle
from offramp.bundle.task import Task
from offramp.engine.runtime import BlockOutput, load_blocks
from offramp.errors import BundleError

_TOLERANCE = 1e-5
_OF_SCALE = (
    1e-4  # by how much a sample's values may change with the size of its batch, relative to the largest
)
_RARE = 1e-3  # share of a code's values that may be rounded to the neighbouring level


def prove_equal(bundle: Bundle, network: EarlyExitNetwork, confidences: Sequence[Confidence]) -> None:
    """Run the bundle and the network on random images and compare them block by block.

    Every block is also run on one sample alone, which must get the same answer as together with others.

    Raises:
        BundleError: the graphs differ from the network by more than 1e-5, or mix the samples of a batch.
    """
    preprocessing = bundle.manifest.preprocessing
    pixels = np.random.default_rng(0).integers(0, 256, (8, *preprocessing.pixel_shape), dtype=np.uint8)
    feature = Normalise(preprocessing)(torch.from_numpy(pixels))
    how = iter(confidences)
    batch: NDArray[Any] = pixels
    for number, runner in enumerate(load_blocks(bundle, 1, len(bundle.manifest.blocks)), start=1):
        output = runner.run(batch)
        _compare_alone(number, output, runner.run(batch[:1]))
        eec, narrowed = network.eec_behind(number), network.bottleneck_behind(number)
        with torch.no_grad():
            feature = network.blocks[number - 1](feature)
            if eec is not None:
                confidence = next(how)
                expected = confidence.of(eec(feature))
                _compare(
                    number,
                    expected,
                    (output.probabilities, output.confidence),
                    scale=_scale(confidence.task, expected[0]),
                )
            if narrowed is not None and output.feature is not None:
                _compare_codes(number, narrowed.encode(feature).numpy(), output.feature)
                feature = narrowed.decode(torch.from_numpy(output.feature))
        if output.feature is not None:
            batch = output.feature


def _compare_alone(number: int, together: BlockOutput, alone: BlockOutput) -> None:
    for several, one in (
        (together.feature, alone.feature),
        (together.probabilities, alone.probabilities),
        (together.confidence, alone.confidence),
    ):
        if several is None or one is None:
            continue
        expected, found = several[:1].astype(np.float64), one.astype(np.float64)
        # A code, in whole levels, may be rounded the other way.
        allowed = _OF_SCALE * float(np.abs(expected).max()) + _TOLERANCE if several.dtype != np.uint8 else 1.0
        if not float(np.abs(expected - found).max()) <= allowed:
            raise BundleError(
                f"block {number} answers differently for a sample alone and for the same in a batch; do not serve this "
                "bundle; normalise or pool over one image only in the network"
            )


def _scale(task: Task, answers: Tensor) -> float:
    """What a difference between answers is relative to: 1 for probabilities, the largest value for a quantity.

    On random images a network says anything, so the values may lie far outside the quantity's range.
    """
    if task.quantity is None:
        return 1.0
    return max(task.quantity.half_range, abs(task.quantity.middle), float(answers.abs().max()))


def _compare(
    number: int, expected: Sequence[Tensor], found: Sequence[NDArray[np.float32] | None], *, scale: float
) -> None:
    difference = max(
        float(np.abs(a.numpy() - b).max()) / (scale if b.ndim > 1 else 1.0)
        for a, b in zip(expected, found, strict=True)
        if b is not None
    )
    if not difference <= _TOLERANCE:
        raise BundleError(
            f"the exported graphs differ from the network by {difference:.2e} after block {number}, more than "
            f"{_TOLERANCE:.0e}; do not serve this bundle"
        )


def _compare_codes(number: int, expected: NDArray[np.uint8], found: NDArray[Any]) -> None:
    # A value halfway between two levels may be rounded to either; this must be rare, and never skip a level.
    apart = np.abs(expected.astype(np.int64) - found)
    if apart.max() > 1 or apart.mean() > _RARE:
        raise BundleError(
            f"the exported code of block {number} differs from the network's by up to {apart.max()} levels, at "
            f"{apart.mean():.2%} of its values; do not serve this bundle"
        )
