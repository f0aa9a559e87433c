"""How large a batch a tier gains from, as a node measures it before it answers."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from offramp.engine.runtime import BlockOutput
from offramp.engine.tier import Tier
from offramp.serving.gain import gaining_batch
from tests.builders import manifest_with


class Block:
    """Takes some time for a batch, and some for each sample in it."""

    def __init__(self, *, batch_s: float, sample_s: float) -> None:
        self._batch_s, self._sample_s = batch_s, sample_s
        self.largest = 0

    def run(self, batch: NDArray[Any]) -> BlockOutput:
        self.largest = max(self.largest, len(batch))
        time.sleep(self._batch_s + len(batch) * self._sample_s)
        return BlockOutput(None, np.full((len(batch), 2), 0.5, np.float32), np.zeros(len(batch), np.float32))


@pytest.mark.parametrize(
    ("batch_s", "sample_s", "most", "gains", "tried"),
    [
        (0.02, 0.0, 16, 16, 16),  # a GPU: a batch takes as long as a sample
        (0.02, 0.0, 24, 16, 16),
        (0.0, 0.02, 16, 1, 2),  # a CPU: larger ones are not even tried
        (0.02, 0.0, 1, 1, 1),
        (0.3, 0.0, 16, 1, 1),  # too slow to be a GPU, whatever it gains
    ],
)
def test_a_batch_grows_as_long_as_samples_gain(
    batch_s: float, sample_s: float, most: int, gains: int, tried: int
) -> None:
    block = Block(batch_s=batch_s, sample_s=sample_s)
    tier = Tier(manifest_with([True]), [block], start=1)
    assert gaining_batch(tier, most=most) == gains
    assert block.largest == tried
