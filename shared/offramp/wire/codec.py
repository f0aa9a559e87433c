"""Feature tensors to bytes and back, side by side.

A codec is one row of `_CODECS`. Decoding trusts nothing the sender says: the shape must be the one the
bundle gives for that block, and the payload exactly as long as that shape needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle.manifest import Codec
from offramp.errors import FeatureError
from offramp.wire.v1 import wire_pb2 as pb

_CODECS: Mapping[Codec, tuple[pb.Codec, np.dtype[Any]]] = {
    "float32": (pb.CODEC_FLOAT32, np.dtype("<f4")),
    "float16": (pb.CODEC_FLOAT16, np.dtype("<f2")),
}
_BY_NUMBER = {number: (name, dtype) for name, (number, dtype) in _CODECS.items()}

SUPPORTED_CODECS: tuple[pb.Codec, ...] = tuple(number for number, _ in _CODECS.values())


def codec_number(codec: Codec) -> pb.Codec:
    """The number under which a codec travels."""
    return _CODECS[codec][0]


def encode_feature(feature: NDArray[np.float32], codec: Codec) -> pb.FeatureTensor:
    """Encode features (B, …), one sample or many. float32 is exact; float16 rounds and clips at ±65504."""
    number, dtype = _CODECS[codec]
    limits = np.finfo(dtype)
    within = feature if codec == "float32" else feature.clip(limits.min, limits.max)
    return pb.FeatureTensor(codec=number, shape=feature.shape, payload=within.astype(dtype).tobytes())


def decode_feature(
    message: pb.FeatureTensor, *, sample_shape: tuple[int, ...], num_samples: int
) -> NDArray[np.float32]:
    """Decode features of a known shape.

    Args:
        message: what a peer sent.
        sample_shape: shape of one sample's feature, as the bundle has it for the block to run.
        num_samples: how many samples the call is for.

    Returns:
        float32 (num_samples, *sample_shape), read-only.

    Raises:
        FeatureError: an unknown codec, another shape, a wrong number of bytes, or NaN or infinite values.
    """
    if message.codec not in _BY_NUMBER:
        raise FeatureError(f"feature in codec {message.codec}; this node decodes {', '.join(_CODECS)}")
    name, dtype = _BY_NUMBER[message.codec]
    expected = (num_samples, *sample_shape)
    if tuple(message.shape) != expected:
        raise FeatureError(f"feature of shape {tuple(message.shape)}, expected {expected}")
    needed = math.prod(expected) * dtype.itemsize
    if len(message.payload) != needed:
        raise FeatureError(
            f"feature of shape {expected} and {name} needs {needed} bytes, got {len(message.payload)}"
        )
    feature = np.frombuffer(message.payload, dtype=dtype).reshape(expected).astype(np.float32, copy=False)
    if not np.isfinite(feature).all():
        raise FeatureError("feature holds NaN or infinite values; a block's output is finite")
    return feature
