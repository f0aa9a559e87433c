"""The codecs of levels: whole numbers from 0 on, of which the bundle knows how many there are and how frequent each is.

`ans` is an asymmetric numeral system (Duda 2009), `packed` writes as many levels into a byte as fit, and `zstd` is
Zstandard (RFC 8878), which finds frequencies by itself.
"""

from __future__ import annotations

import math
from functools import lru_cache
from threading import local
from typing import Any

import constriction
import numpy as np
import zstandard
from numpy.typing import NDArray

from offramp.bundle.manifest import Levels
from offramp.errors import FeatureError

WORD = np.dtype("<u4")  # the unit that the entropy coder writes
_WORDS_OF_STATE = 2
_BYTE = 256
_LEVEL_OF_ZSTD = 1  # higher ones take more time and, of features, no fewer bytes
_ONLY_LEVELS = "a manifest sends levels in these codecs, and nothing else"


def encode_ans(feature: NDArray[Any], levels: Levels | None) -> bytes:
    """Levels as words of an asymmetric numeral system."""
    assert levels is not None, _ONLY_LEVELS
    if not feature.size:
        return b""
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(feature.ravel().astype(np.int32), _model(levels.frequencies))
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype(WORD, copy=False).tobytes()


def decode_ans(payload: bytes, shape: tuple[int, ...], levels: Levels | None) -> NDArray[Any]:
    """The levels (…) of such words; raises FeatureError if no encoder writes them."""
    assert levels is not None, _ONLY_LEVELS
    values = math.prod(shape)
    longest = longest_ans(values, levels.frequencies)
    if len(payload) > longest or len(payload) % WORD.itemsize:
        raise FeatureError(
            f"code of shape {shape} needs whole words of {WORD.itemsize} bytes, at most {longest} bytes, "
            f"got {len(payload)}"
        )
    try:
        coder = constriction.stream.stack.AnsCoder(np.frombuffer(payload, dtype=WORD).astype(np.uint32))
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


def pack(feature: NDArray[Any], levels: Levels | None) -> bytes:
    """As many levels in a byte as fit."""
    assert levels is not None, _ONLY_LEVELS
    places = _places(len(levels.frequencies))
    if feature.size % len(places):
        needed = -(-feature.size // len(places))
        padded = np.zeros(needed * len(places), dtype=np.uint8)
        padded[: feature.size] = feature.ravel()
        feature = padded
    return (feature.reshape(-1, len(places)) @ places).tobytes()


def unpack(payload: bytes, shape: tuple[int, ...], levels: Levels | None) -> NDArray[Any]:
    """The levels (…) of such bytes; raises FeatureError if packing never writes them."""
    assert levels is not None, _ONLY_LEVELS
    count, values = len(levels.frequencies), math.prod(shape)
    table = _unpacked(count)
    needed, left_over = -(-values // table.shape[1]), values % table.shape[1]
    if len(payload) != needed:
        raise FeatureError(f"packed levels of shape {shape} need {needed} bytes, got {len(payload)}")
    try:
        unpacked = table.take(np.frombuffer(payload, dtype=np.uint8), axis=0)
    except IndexError:
        raise FeatureError(
            f"packed levels hold the byte {max(payload)}, but {table.shape[1]} of {count} levels are below {len(table)}"
        ) from None
    if not left_over:
        return unpacked.reshape(shape)
    if payload[-1] >= count**left_over:
        raise FeatureError(f"packed levels do not end where their {values} values do")
    return unpacked.ravel()[:values].reshape(shape)


class _Zstd(local):
    """A thread's own compressor and decompressor: to make one takes longer than a feature does."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=_LEVEL_OF_ZSTD).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_zstd = _Zstd()


def compress(feature: NDArray[Any], _: Levels | None) -> bytes:
    """Levels as one Zstandard frame that tells how many there are."""
    return _zstd.compress(np.ascontiguousarray(feature).data) if feature.size else b""


def decompress(payload: bytes, shape: tuple[int, ...], levels: Levels | None) -> NDArray[Any]:
    """The levels (…) of such a frame; raises FeatureError if it is none, or has others."""
    assert levels is not None, _ONLY_LEVELS
    values = math.prod(shape)
    if not values and not payload:
        return np.empty(shape, dtype=np.uint8)
    try:
        # Read before anything is reserved for what it claims.
        claimed = zstandard.get_frame_parameters(payload).content_size
        if claimed != values:
            raise FeatureError(f"compressed levels of shape {shape} are {values} bytes, these are {claimed}")
        found = _zstd.decompress(payload, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise FeatureError(f"{len(payload)} bytes are not compressed levels: {error}") from error
    feature = np.frombuffer(found, dtype=np.uint8)
    if len(feature) != values:
        raise FeatureError(f"compressed levels of shape {shape} are {values} bytes, these are {len(feature)}")
    if len(levels.frequencies) < _BYTE and values and feature.max() >= len(levels.frequencies):
        raise FeatureError(f"compressed level {feature.max()}, but there are {len(levels.frequencies)}")
    return feature.reshape(shape)


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


def longest_ans(values: int, frequencies: tuple[int, ...]) -> int:
    """Most bytes that `values` can take, if each is the rarest level; with a margin, since the coder rounds."""
    bits = math.log2(sum(frequencies) / min(frequencies)) + 1
    return (math.ceil(values * bits / (8 * WORD.itemsize)) + _WORDS_OF_STATE) * WORD.itemsize


def longest_zstd(values: int) -> int:
    """Most bytes of so many values (ZSTD_COMPRESSBOUND), and of a frame's header."""
    return values + values // _BYTE + 82
