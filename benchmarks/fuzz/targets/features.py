"""Feature tensors in every codec: a message is refused as a FeatureError, or becomes what a block can run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import cast

import numpy as np

from benchmarks.fuzz.targets import Try
from offramp.bundle.manifest import Block, Levels, Tensor
from offramp.errors import FeatureError
from offramp.wire.codec import decode_feature, encode_feature
from offramp.wire.v1 import wire_pb2 as pb

MAX_BYTES = 4096
_SHAPE = (6, 4, 4)
_SAMPLES = 2
_HEAD = 3
_RIGHT_SHAPE = 230
_LEVELS = (
    Levels(frequencies=(900, 80, 15, 5)),
    Levels(frequencies=(1,) * 256),
    Levels(frequencies=(1, 2**24)),
)


def _block(levels: Levels | None) -> Block:
    return Block(
        number=1,
        file="block-1.onnx",
        sha256="0" * 64,
        input=Tensor(shape=(1, 1, 1), dtype="uint8"),
        feature=Tensor(shape=_SHAPE, dtype="uint8" if levels else "float32"),
        levels=levels,
        macs=1,
        exit=None,
    )


_BLOCKS = [_block(levels) for levels in (None, *_LEVELS)]


async def _decode(data: bytes) -> None:
    # Three bytes choose the block, the codec and whether the shape is right; protobuf itself is fuzzed elsewhere.
    if len(data) < _HEAD:
        return
    block = _BLOCKS[data[0] % len(_BLOCKS)]
    shape = (_SAMPLES, *_SHAPE) if data[2] < _RIGHT_SHAPE else tuple(data[_HEAD : _HEAD + data[2] % 5])
    codec = cast("pb.Codec", data[1] % 7)  # known and unknown ones
    message = pb.FeatureTensor(codec=codec, shape=shape, payload=data[_HEAD:])
    try:
        feature = decode_feature(message, block=block, num_samples=_SAMPLES)
    except FeatureError:
        return
    assert feature.shape == (_SAMPLES, *_SHAPE)
    if block.levels:
        assert feature.dtype == np.uint8 and feature.max() < len(block.levels.frequencies)
    else:
        assert feature.dtype == np.float32 and np.isfinite(feature).all()


def seeds() -> Iterator[bytes]:
    """A message in each codec."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(_SAMPLES, *_SHAPE)).astype(np.float32)
    for codec in ("float32", "float16"):
        message = encode_feature(values, codec)
        yield bytes([0, message.codec, 0]) + message.payload
    for number, levels in enumerate(_LEVELS, start=1):
        code = generator.integers(0, len(levels.frequencies), values.shape, dtype=np.uint8)
        for name in ("ans", "packed", "zstd"):
            message = encode_feature(code, name, levels)
            yield bytes([number, message.codec, 0]) + message.payload


@asynccontextmanager
async def ready() -> AsyncIterator[Try]:
    """Nothing has to be set up."""
    yield _decode
