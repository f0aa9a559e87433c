"""How long encoding and decoding take, compared with the edge's own computing, in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.bundle.manifest import Codec, Levels
from offramp.engine.runtime import load_blocks
from offramp.wire.codec import decode_feature, encode_feature
from offramp.wire.v1 import wire_pb2 as pb

_WARM_UP = 50


@dataclass(frozen=True)
class CodingTime:
    """Median microseconds of one sample.

    edge: all blocks of the wide bundle before the split, with their EECs. narrowing, widening: what the bottleneck
    adds to the block before and to the block after the split. encoding, decoding: the entropy coder, with its message.
    """

    edge: float
    narrowing: float
    widening: float
    encoding: float
    decoding: float

    @property
    def share(self) -> float:
        """Encoding and decoding, the bottleneck included, as a share of the edge's computing."""
        return (self.narrowing + self.widening + self.encoding + self.decoding) / self.edge


def coding_time(narrow: Bundle, wide: Bundle, pixels: NDArray[np.uint8]) -> CodingTime:
    """Time the same samples in both bundles by turns, one at a time, on one thread.

    Raises:
        ValueError: the wide bundle is not the narrow one without its bottleneck.
    """
    split_point = narrow.manifest.operating_point.split_point
    block = narrow.manifest.blocks[split_point - 2]
    if block.levels is None or len(wide.manifest.blocks) != len(narrow.manifest.blocks):
        raise ValueError("the narrow bundle needs a bottleneck, the wide one the same blocks without it")
    codec = narrow.manifest.codec_at(split_point)
    edge = load_blocks(wide, 1, split_point - 1)
    before = {"wide": edge[-1], "narrow": load_blocks(narrow, split_point - 1, split_point - 1)[0]}
    behind = {
        name: load_blocks(bundle, split_point, split_point)[0]
        for name, bundle in {"wide": wide, "narrow": narrow}.items()
    }
    seen: dict[str, list[float]] = {}
    for number, image in enumerate(pixels):
        batch: Any = image[np.newaxis]
        spent = 0.0
        for runner in edge[:-1]:
            took, output = _timed(partial(runner.run, batch))
            spent, batch = spent + took, output.feature
        found: dict[str, float] = {}
        features: dict[str, Any] = {}
        for name, runner in _in_turn(before, number).items():
            found[f"before {name}"], output = _timed(partial(runner.run, batch))
            features[name] = output.feature
        found["encoding"], message = _timed(partial(_encoded, features["narrow"], codec, block.levels))
        received = pb.FeatureTensor.FromString(message)
        found["decoding"], code = _timed(partial(decode_feature, received, block=block, num_samples=1))
        arriving = {"wide": features["wide"], "narrow": code}
        for name, runner in _in_turn(behind, number).items():
            found[f"behind {name}"], _ = _timed(partial(runner.run, arriving[name]))
        found["edge"] = spent + found["before wide"]
        found["narrowing"] = found["before narrow"] - found["before wide"]
        found["widening"] = found["behind narrow"] - found["behind wide"]
        if number >= _WARM_UP:
            for name, took in found.items():
                seen.setdefault(name, []).append(took)
    return CodingTime(
        *(median(seen[name]) for name in ("edge", "narrowing", "widening", "encoding", "decoding"))
    )


def _encoded(feature: NDArray[Any], codec: Codec, levels: Levels) -> bytes:
    return encode_feature(feature, codec, levels).SerializeToString()


def _in_turn(runners: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    return runners if number % 2 else dict(reversed(list(runners.items())))


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = perf_counter_ns()
    result = call()
    return (perf_counter_ns() - start) / 1000, result
