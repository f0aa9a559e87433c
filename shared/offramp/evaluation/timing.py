"""Milliseconds of a bundle on this machine: ONNX Runtime, one thread, one image at a time."""

from __future__ import annotations

from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.runtime import load_blocks

_WARM_UP = 20


def exit_ms(bundle: Bundle, pixels: NDArray[np.uint8], *, images: int = 200) -> tuple[float, ...]:
    """Median milliseconds of a sample that leaves at each exit, the EECs on its way included.

    Args:
        bundle: verified.
        pixels: uint8 (N, H, W, C); the first `images` of them are used, over again if there are fewer.
        images: how many are timed.
    """
    blocks = load_blocks(bundle, 1, len(bundle.manifest.blocks))
    spent = np.empty((images + _WARM_UP, len(blocks)))
    for number in range(len(spent)):
        batch: NDArray[np.generic] = pixels[number % len(pixels)][np.newaxis]
        for at, block in enumerate(blocks):
            started = perf_counter()
            output = block.run(batch)
            spent[number, at] = perf_counter() - started
            if output.feature is not None:
                batch = output.feature
    so_far_ms = 1000 * np.median(spent[_WARM_UP:].cumsum(axis=1), axis=0)
    return tuple(float(so_far_ms[block - 1]) for block in bundle.manifest.exit_blocks)
