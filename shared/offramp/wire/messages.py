"""What both ends of the wire agree on besides the messages themselves."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from offramp.bundle.manifest import Manifest
from offramp.wire.v1 import wire_pb2 as pb

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["TierService"].full_name

# gRPC's default of 4 MiB is less than one 256 x 112 x 112 float32 feature (12.25 MiB).
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MESSAGE_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # gRPC pings to size flow-control windows that our small messages never fill: 17 bytes on almost every call.
    ("grpc.http2.bdp_probe", 0),
)
# How often a caller tries whether an idle connection still answers; a cloud node can bear that of 5,000 edges.
KEEPALIVE_S = 10.0
# What a server has to allow for it; it would send such callers away otherwise.
SERVER_KEEPALIVE_OPTIONS = (
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", round(500 * KEEPALIVE_S)),
)

# Bytes on the socket for a call beyond its message: HTTP/2 and gRPC frames and compressed headers.
# `python -m benchmarks.wire` counts them.
BYTES_OF_CALL = 58
BYTES_ON_STREAM = 40  # the same for one message of a call that carries one after another
BYTES_OF_STREAM = 25  # and for its beginning and its end
BYTES_OF_SAMPLE = 256  # most that a message has for a sample besides its feature or file: id and framing
_ID_LENGTH = 16
_NUMBER = np.dtype("<f4")
_ROUNDING = 1e-6
_ROUNDING_OF_SUM = 1e-3
TIER_NAME = r"^[a-z0-9][a-z0-9._-]{0,39}$"
_TIER_NAME = re.compile(TIER_NAME)
_LONGEST_TEXT = 300


def request_bytes(
    manifest: Manifest, split_point: int, payload_bytes: int, *, is_feature: bool = True
) -> int:
    """Bytes on the socket for one offloaded sample that is sent on its own, framing included, in a call of its own.

    On a call that carries others, too, it takes 14 less.

    Args:
        manifest: of the bundle.
        split_point: first block that the next tier would run on a feature.
        payload_bytes: size of the encoded feature, or of the file of the picture.
        is_feature: whether it is a feature.
    """
    request = pb.InferRequest(
        bundle_id=manifest.bundle_id,
        request_ids=["0" * _ID_LENGTH],
        next_block=split_point if is_feature else 1,
        thetas=[1.0] * (manifest.num_exits - 1),
    )
    if is_feature:
        feature = manifest.blocks[split_point - 2].feature
        request.feature.codec = pb.CODEC_FLOAT32
        request.feature.shape.extend((1, *(feature.shape if feature else ())))
        request.feature.payload = bytes(payload_bytes)
    else:
        request.images.append(bytes(payload_bytes))
    return request.ByteSize() + BYTES_OF_CALL


def probabilities_to_bytes(probabilities_K: NDArray[np.float32]) -> bytes:
    """The numbers of an answer (K,) as little-endian float32 bytes."""
    return probabilities_K.astype(_NUMBER, copy=False).tobytes()


def probabilities_from_bytes(payload: bytes, manifest: Manifest) -> NDArray[np.float32] | None:
    """The numbers of an answer, or None if the bytes are not what the bundle's task allows.

    They are probabilities (K,) from 0 to 1, which sum to 1 if the classes exclude each other; or, for a regression, a
    finite value and a standard deviation above 0.
    """
    if len(payload) != 4 * manifest.task.num_outputs(len(manifest.labels)):
        return None
    numbers = np.frombuffer(payload, dtype=_NUMBER)
    if manifest.task.kind == "regression":
        return numbers if np.isfinite(numbers).all() and numbers[1] > 0 else None
    # NaN is the smallest and the largest of any numbers, and compares as False. A softmax in float32 may be above 1 by
    # a rounding.
    if not (np.minimum.reduce(numbers) >= 0 and np.maximum.reduce(numbers) <= 1 + _ROUNDING):
        return None
    if manifest.task.kind == "single_label" and abs(float(np.add.reduce(numbers)) - 1) > _ROUNDING_OF_SUM:
        return None
    return numbers


def is_tier_name(name: str) -> bool:
    """Whether a tier may be called this."""
    return bool(_TIER_NAME.fullmatch(name))


def told(text: str, longest: int = _LONGEST_TEXT) -> str:
    """What a peer says in words, fit to be shown: without control characters, and cut."""
    cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in cut)
