"""Encodes feature tensors to bytes, and decodes them.

A codec is one row of `_CODECS`. Rounding to fewer levels is not a codec's job: a bottleneck does it inside the network,
and `ans` and `packed` send the result without loss. Decoding trusts nothing the sender says: the shape must be the
bundle's for that block, and the payload must not be longer than that shape can need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from offramp.bundle.manifest import Block, Codec, Levels
from offramp.errors import FeatureError
from offramp.wire.v1 import wire_pb2 as pb

_WORD = np.dtype("<u4")  # the unit that the entropy coder writes
_WORDS_OF_STATE = 2
_BYTE = 256


def encode_feature(feature: NDArray[Any], codec: Codec, levels: Levels | None = None) -> pb.FeatureTensor:
    """Encode features (B, …), one sample or many.

    All are exact but float16, which rounds and clips at ±65504.

    Args:
        feature: output of a block: float32, or uint8 for `ans` and `packed`.
        codec: how to encode it.
        levels: those of the block that made it; `ans` and `packed` need them.
    """
    row = _CODECS[codec]
    return pb.FeatureTensor(codec=row.number, shape=feature.shape, payload=row.encode(feature, levels))


def expected_bytes(block: Block, codec: Codec) -> float:
    """Average payload bytes of one sample of a block's feature; for `ans`, from the frequencies of its levels."""
    assert block.feature is not None, "the last block has no feature"
    values = math.prod(block.feature.shape)
    if block.levels is None:
        return float(values * _SIZES[codec])
    if codec == "packed":
        return float(-(-values // levels_per_byte(len(block.levels.frequencies))))
    share = np.array(block.levels.frequencies) / sum(block.levels.frequencies)
    return values * float(-(share * np.log2(share)).sum()) / 8 + _WORD.itemsize


def most_bytes(block: Block, codec: Codec) -> int:
    """Most payload bytes that one sample of a block's feature can take."""
    assert block.feature is not None, "the last block has no feature"
    if block.levels is not None and codec == "ans":
        return _longest(math.prod(block.feature.shape), block.levels.frequencies)
    return math.ceil(expected_bytes(block, codec))


def codec_for_levels(block: Block) -> Codec:
    """The codec that takes fewer bytes for the levels of a block; where they are about equally frequent, `packed`."""
    return "packed" if expected_bytes(block, "packed") <= expected_bytes(block, "ans") else "ans"


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


def _encode_levels(feature: NDArray[Any], levels: Levels | None) -> bytes:
    assert levels is not None, "a manifest sends levels as ans, and nothing else"
    if not feature.size:
        return b""
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(feature.ravel().astype(np.int32), _model(levels.frequencies))
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype(_WORD, copy=False).tobytes()


def _decode_levels(payload: bytes, shape: tuple[int, ...], levels: Levels | None) -> NDArray[Any]:
    assert levels is not None, "a manifest sends levels as ans, and nothing else"
    values = math.prod(shape)
    longest = _longest(values, levels.frequencies)
    if len(payload) > longest or len(payload) % _WORD.itemsize:
        raise FeatureError(
            f"code of shape {shape} needs whole words of {_WORD.itemsize} bytes, at most {longest} bytes, "
            f"got {len(payload)}"
        )
    try:
        coder = constriction.stream.stack.AnsCoder(np.frombuffer(payload, dtype=_WORD).astype(np.uint32))
        decoded: NDArray[np.int32] = coder.decode(_model(levels.frequencies), values)
    except (ValueError, AssertionError) as error:
        raise FeatureError(
            f"code of {len(payload)} bytes is not one that an encoder writes: {error}"
        ) from error
    if not coder.is_empty():
        raise FeatureError(
            f"code of {len(payload)} bytes does not end where its {values} values do; was it made for another bundle?"
        )
    return decoded.astype(np.uint8).reshape(shape)


def _pack_levels(feature: NDArray[Any], levels: Levels | None) -> bytes:
    assert levels is not None, "a manifest sends levels as packed, and nothing else"
    places = _places(len(levels.frequencies))
    if left_over := feature.size % len(places):
        feature = np.append(feature, np.zeros(len(places) - left_over, dtype=np.uint8))
    return (feature.reshape(-1, len(places)) @ places).tobytes()


def _unpack_levels(payload: bytes, shape: tuple[int, ...], levels: Levels | None) -> NDArray[Any]:
    assert levels is not None, "a manifest sends levels as packed, and nothing else"
    count, values = len(levels.frequencies), math.prod(shape)
    table = _unpacked(count)
    needed = -(-values // table.shape[1])
    packed = np.frombuffer(payload, dtype=np.uint8)
    if len(packed) != needed:
        raise FeatureError(f"packed levels of shape {shape} need {needed} bytes, got {len(packed)}")
    if len(table) < _BYTE and packed.size and packed.max() >= len(table):
        raise FeatureError(
            f"packed levels hold the byte {packed.max()}, but {table.shape[1]} of {count} levels are below {len(table)}"
        )
    unpacked = table[packed]
    if unpacked.size == values:
        return unpacked.reshape(shape)
    if unpacked.ravel()[values:].any():
        raise FeatureError(f"packed levels do not end where their {values} values do")
    return unpacked.ravel()[:values].reshape(shape)


def levels_per_byte(num_levels: int) -> int:
    """How many values of so many levels fit into a byte."""
    count = 1
    while num_levels ** (count + 1) <= _BYTE:
        count += 1
    return count


@lru_cache(maxsize=64)
def _places(num_levels: int) -> NDArray[np.uint8]:
    """What each value of a byte counts for."""
    return np.array([num_levels**place for place in range(levels_per_byte(num_levels))], dtype=np.uint8)


@lru_cache(maxsize=64)
def _unpacked(num_levels: int) -> NDArray[np.uint8]:
    """The values in every byte that can be written."""
    places = _places(num_levels).astype(np.int64)
    codes = np.arange(num_levels ** len(places))[:, np.newaxis]
    return (codes // places % num_levels).astype(np.uint8)


@lru_cache(maxsize=64)
def _model(frequencies: tuple[int, ...]) -> Any:
    weights = np.array(frequencies, dtype=np.float64)
    return constriction.stream.model.Categorical(weights / weights.sum(), perfect=False)


def _longest(values: int, frequencies: tuple[int, ...]) -> int:
    """Most bytes that `values` can take, if each is the rarest level; with a margin, since the coder rounds."""
    bits = math.log2(sum(frequencies) / min(frequencies)) + 1
    return (math.ceil(values * bits / (8 * _WORD.itemsize)) + _WORDS_OF_STATE) * _WORD.itemsize


_SIZES = {"float32": 4, "float16": 2}

_CODECS: Mapping[Codec, _Row] = {
    "float32": _floats(pb.CODEC_FLOAT32, np.dtype("<f4")),
    "float16": _floats(pb.CODEC_FLOAT16, np.dtype("<f2")),
    "ans": _Row(pb.CODEC_ANS, True, _encode_levels, _decode_levels),
    "packed": _Row(pb.CODEC_PACKED, True, _pack_levels, _unpack_levels),
}

_ROWS: Mapping[int, _Row] = {row.number: row for row in _CODECS.values()}

SUPPORTED_CODECS: tuple[pb.Codec, ...] = tuple(row.number for row in _CODECS.values())


def codec_number(codec: Codec) -> pb.Codec:
    """A codec's number on the wire."""
    return _CODECS[codec].number
