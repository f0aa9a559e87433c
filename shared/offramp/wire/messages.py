"""What both ends of the wire agree on beside the messages themselves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offramp.wire.v1 import wire_pb2 as pb

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["TierService"].full_name

# gRPC's default of 4 MiB is less than one 256 x 112 x 112 float32 feature (12.25 MiB).
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MESSAGE_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)


def probabilities_to_bytes(probabilities_K: NDArray[np.float32]) -> bytes:
    """Class probabilities (K,) as they travel."""
    return probabilities_K.astype("<f4", copy=False).tobytes()


def probabilities_from_bytes(payload: bytes, num_classes: int) -> NDArray[np.float32] | None:
    """Class probabilities (K,), or None where the bytes are not `num_classes` finite numbers."""
    if len(payload) != 4 * num_classes:
        return None
    probabilities_K = np.frombuffer(payload, dtype="<f4")
    return probabilities_K if np.isfinite(probabilities_K).all() else None
