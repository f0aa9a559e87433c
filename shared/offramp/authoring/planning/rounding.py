"""What a feature would take if its values were rounded: to half precision, or to a few levels in each channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle.manifest import Block

_HALF = "float16"
_BITS = {"8 bits": 8, "4 bits": 4, "2 bits": 2}
_BYTES_OF_RANGE = 4  # least and largest value of a channel, as float16


@dataclass(frozen=True)
class Rounding:
    """The precisions at which a block's feature could be sent; none for a bottleneck, whose levels are few already.

    It stands for `offramp compress --bits`, before the network has learned to live with it: each sample brings the
    range of each channel along, and the size is the entropy of its levels.
    """

    names: Sequence[str]

    @classmethod
    def of(cls, block: Block) -> Rounding:
        """Those of a block."""
        return cls(() if block.levels else (_HALF, *_BITS))

    def sent(self, name: str, feature: NDArray[Any]) -> tuple[int, NDArray[np.float32]]:
        """Bytes of one sample's feature (1, C, …) at a precision, and the feature that arrives."""
        if name == _HALF:
            limit = float(np.finfo(np.float16).max)
            half = feature.clip(-limit, limit).astype(np.float16)
            return half.nbytes, half.astype(np.float32)
        steps = 2 ** _BITS[name] - 1
        over = tuple(range(2, feature.ndim))
        low, high = feature.min(axis=over, keepdims=True), feature.max(axis=over, keepdims=True)
        span = np.maximum(high - low, np.finfo(np.float32).tiny)
        levels = ((feature - low) / span * steps).round()
        counts = np.bincount(levels.astype(np.int64).ravel(), minlength=steps + 1)
        share = counts[counts > 0] / counts.sum()
        entropy_bits = float(-(share * np.log2(share)).sum()) * feature.size
        ranges = low.size * _BYTES_OF_RANGE if over else 0
        return round(entropy_bits / 8) + ranges, (levels / steps * span + low).astype(np.float32)
