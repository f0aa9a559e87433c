"""What both ends of the wire agree on besides the messages themselves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offramp.bundle.manifest import Manifest
from offramp.wire.v1 import wire_pb2 as pb

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["TierService"].full_name

# gRPC's default of 4 MiB is less than one 256 x 112 x 112 float32 feature (12.25 MiB).
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MESSAGE_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # gRPC pings to size flow-control windows that our small messages never fill: 17 bytes on almost every call.
    ("grpc.http2.bdp_probe", 0),
)


# Bytes on the socket for a call beyond its message: HTTP/2 and gRPC frames and compressed headers.
# `python -m benchmarks.wire` counts them.
BYTES_OF_CALL = 58
_ID_LENGTH = 16


def request_bytes(
    manifest: Manifest, split_point: int, payload_bytes: int, *, is_feature: bool = True
) -> int:
    """Bytes on the socket for one offloaded sample that is sent on its own, framing included.

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
    """Class probabilities (K,) as little-endian float32 bytes."""
    return probabilities_K.astype("<f4", copy=False).tobytes()


def probabilities_from_bytes(payload: bytes, num_classes: int) -> NDArray[np.float32] | None:
    """Class probabilities (K,), or None if the bytes are not `num_classes` finite numbers."""
    if len(payload) != 4 * num_classes:
        return None
    probabilities_K = np.frombuffer(payload, dtype="<f4")
    return probabilities_K if np.isfinite(probabilities_K).all() else None
