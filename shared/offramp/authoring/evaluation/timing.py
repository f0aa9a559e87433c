"""Times a bundle's blocks on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from offramp.authoring.data.photos import Pixels, batch_size_for
from offramp.bundle import Bundle
from offramp.engine.runtime import BlockRunner, Runtime, load_blocks

_WARM_UP = 20


def exit_ms(
    bundle: Bundle, pixels: Pixels, *, runtime: Runtime = "onnx", images: int = 200
) -> tuple[float, ...]:
    """For each exit, median milliseconds of a sample that leaves there, EECs included; one thread, one image.

    Args:
        bundle: verified.
        pixels: uint8 (N, H, W, C); used in turn, and again from the start if there are too few.
        runtime: what runs the blocks.
        images: how many to time.
    """
    blocks = load_blocks(bundle, 1, len(bundle.manifest.blocks), runtime=runtime)
    # Read beforehand, so that decoding does not come between the blocks.
    few = pixels[: min(images, batch_size_for(pixels.shape))]
    spent_s = block_seconds(blocks, few, rounds=images)
    so_far_ms = 1000 * np.median(spent_s.cumsum(axis=1), axis=0)
    return tuple(float(so_far_ms[block - 1]) for block in bundle.manifest.exit_blocks)


def block_seconds(
    blocks: Sequence[BlockRunner], pixels: NDArray[np.uint8], *, batch_size: int = 1, rounds: int = 200
) -> NDArray[np.float64]:
    """Seconds (rounds, blocks) that each block takes for a batch in which no sample leaves early.

    Args:
        blocks: all blocks of a bundle, in order.
        pixels: uint8 (N, H, W, C); used in turn, and again from the start if there are too few.
        batch_size: samples in one call.
        rounds: how many batches to time, after a few to warm up.
    """
    spent_s = np.empty((rounds + _WARM_UP, len(blocks)))
    samples = np.arange(batch_size)
    for number in range(len(spent_s)):
        batch: NDArray[np.generic] = pixels[(number * batch_size + samples) % len(pixels)]
        for at, block in enumerate(blocks):
            started = perf_counter()
            output = block.run(batch)
            spent_s[number, at] = perf_counter() - started
            if output.feature is not None:
                batch = output.feature
    return spent_s[_WARM_UP:]
