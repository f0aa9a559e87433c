"""Encodes feature tensors to bytes, and decodes them.

A codec is one row of `_CODECS`. Rounding to fewer levels is not a codec's job: a bottleneck or a block in int8 does it
inside the network, and `ans`, `packed` and `zstd` send the result without loss. Decoding trusts nothing the sender
says: the shape must be the bundle's for that block, and the payload must not be longer than that shape can need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle.manifest import Block, Codec, Levels
from offramp.errors import FeatureError
from offramp.wire.levels import (
    WORD,
    compress,
    decode_ans,
    decompress,
    encode_ans,
    levels_per_byte,
    longest_ans,
    longest_zstd,
    pack,
    unpack,
)
from offramp.wire.v1 import wire_pb2 as pb


def encode_feature(feature: NDArray[Any], codec: Codec, levels: Levels | None = None) -> pb.FeatureTensor:
    """Encode features (B, …), one sample or many.

    All are exact but float16, which rounds and clips at ±65504.

    Args:
        feature: output of a block: float32, or uint8 for `ans`, `packed` and `zstd`.
        codec: how to encode it.
        levels: those of the block that made it; `ans` and `packed` need them.
    """
    row = _CODECS[codec]
    return pb.FeatureTensor(codec=row.number, shape=feature.shape, payload=row.encode(feature, levels))


def expected_bytes(block: Block, codec: Codec) -> float:
    """Average payload bytes of one sample of a block's feature; for `ans` and `zstd`, from its levels' frequencies.

    `zstd` takes a few percent more.
    """
    assert block.feature is not None, "the last block has no feature"
    values = math.prod(block.feature.shape)
    if block.levels is None:
        return float(values * _SIZES[codec])
    if codec == "packed":
        return float(-(-values // levels_per_byte(len(block.levels.frequencies))))
    share = np.array(block.levels.frequencies) / sum(block.levels.frequencies)
    return values * float(-(share * np.log2(share)).sum()) / 8 + WORD.itemsize


def most_bytes(block: Block, codec: Codec) -> int:
    """Most payload bytes that one sample of a block's feature can take."""
    assert block.feature is not None, "the last block has no feature"
    if block.levels is not None and codec == "ans":
        return longest_ans(math.prod(block.feature.shape), block.levels.frequencies)
    if codec == "zstd":
        return longest_zstd(math.prod(block.feature.shape))
    return math.ceil(expected_bytes(block, codec))


def codec_for_levels(block: Block) -> Codec:
    """The codec for the levels of a block.

    Where they are about equally frequent, `packed` takes the fewest bytes, otherwise `ans`. But `ans` takes its time
    for each value. Where each has a byte of its own, `zstd` takes a few percent more bytes and a fraction of the time.
    """
    assert block.levels is not None, "only levels have a choice"
    if expected_bytes(block, "packed") <= expected_bytes(block, "ans"):
        return "packed"
    return "ans" if levels_per_byte(len(block.levels.frequencies)) > 1 else "zstd"


def decode_feature(message: pb.FeatureTensor, *, block: Block, num_samples: int) -> NDArray[Any]:
    """Decode the features of a block.

    Args:
        message: what a peer sent.
        block: the block that made the feature, from this node's bundle.
        num_samples: number of samples in the call.

    Returns:
        (num_samples, …), float32 or uint8, whichever the next block takes; read-only.

    Raises:
        FeatureError: the codec does not suit this feature, the shape or the number of bytes is wrong, no encoder writes
            such bytes, or values are NaN or infinite.
    """
    assert block.feature is not None, "the last block has no feature"
    row = _ROWS.get(message.codec)
    if row is None or row.is_exact != (block.levels is not None):
        fitting = [name for name, row in _CODECS.items() if row.is_exact == (block.levels is not None)]
        raise FeatureError(
            f"feature in codec {message.codec}, but the feature of block {block.number} travels as "
            f"{' or '.join(fitting)}"
        )
    expected = (num_samples, *block.feature.shape)
    if tuple(message.shape) != expected:
        raise FeatureError(f"feature of shape {tuple(message.shape)}, expected {expected}")
    return row.decode(message.payload, expected, block.levels)


@dataclass(frozen=True)
class _Row:
    """A codec: its number on the wire, and both directions. is_exact: for levels, not for floats."""

    number: pb.Codec
    is_exact: bool
    encode: Callable[[NDArray[Any], Levels | None], bytes]
    decode: Callable[[bytes, tuple[int, ...], Levels | None], NDArray[Any]]


def _floats(number: pb.Codec, dtype: np.dtype[Any]) -> _Row:
    limits = np.finfo(dtype)

    def encode(feature: NDArray[Any], _: Levels | None) -> bytes:
        within = feature if dtype.itemsize == feature.itemsize else feature.clip(limits.min, limits.max)
        return within.astype(dtype).tobytes()

    def decode(payload: bytes, shape: tuple[int, ...], _: Levels | None) -> NDArray[Any]:
        needed = math.prod(shape) * dtype.itemsize
        if len(payload) != needed:
            raise FeatureError(
                f"feature of shape {shape} and {limits.dtype} needs {needed} bytes, got {len(payload)}"
            )
        feature = np.frombuffer(payload, dtype=dtype).reshape(shape).astype(np.float32, copy=False)
        if not np.isfinite(feature).all():
            raise FeatureError("feature holds NaN or infinite values; a block's output is finite")
        return feature

    return _Row(number, False, encode, decode)


_SIZES = {"float32": 4, "float16": 2}

_CODECS: Mapping[Codec, _Row] = {
    "float32": _floats(pb.CODEC_FLOAT32, np.dtype("<f4")),
    "float16": _floats(pb.CODEC_FLOAT16, np.dtype("<f2")),
    "ans": _Row(pb.CODEC_ANS, True, encode_ans, decode_ans),
    "packed": _Row(pb.CODEC_PACKED, True, pack, unpack),
    "zstd": _Row(pb.CODEC_ZSTD, True, compress, decompress),
}

_ROWS: Mapping[int, _Row] = {row.number: row for row in _CODECS.values()}

SUPPORTED_CODECS: tuple[pb.Codec, ...] = tuple(row.number for row in _CODECS.values())


def codec_number(codec: Codec) -> pb.Codec:
    """A codec's number on the wire."""
    return _CODECS[codec].number
