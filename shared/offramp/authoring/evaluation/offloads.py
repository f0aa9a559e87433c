"""What every sample would send to the next tier, if it were offloaded: the very bytes that a node would send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from offramp.bundle.manifest import Manifest, Payload
from offramp.engine.payload import PayloadRule, Sent
from offramp.wire.messages import request_bytes


@dataclass(frozen=True, eq=False)
class Offloads:
    """For each of N samples, what it travels as and how much that is, sent on its own to a tier that runs all blocks.

    payload: by which rule. sent: (N,), each a `Sent`. payload_bytes: (N,), of the feature or picture. socket_bytes:
    (N,), the same with everything around it.
    """

    payload: Payload
    sent: NDArray[np.str_]
    payload_bytes: NDArray[np.int64]
    socket_bytes: NDArray[np.int64]

    def shares(self, which_N: NDArray[np.bool_]) -> dict[Sent, float]:
        """Share of some of the samples that travels as each kind."""
        of_kind = {kind: float((self.sent[which_N] == kind).mean()) for kind in get_args(Sent)}
        return {kind: share for kind, share in of_kind.items() if share}


class OffloadCount:
    """Collects what the samples would send, one after the other."""

    def __init__(self, manifest: Manifest, rule: PayloadRule, split_point: int) -> None:
        """Count for a bundle that is cut before block `split_point`, and sends by `rule`."""
        self._manifest = manifest
        self._rule = rule
        self._split_point = split_point
        self._found: list[tuple[Sent, int, int]] = []

    def add(self, sent: Sent, payload_bytes: int) -> None:
        """Count one sample."""
        whole = request_bytes(self._manifest, self._split_point, payload_bytes, is_feature=sent == "feature")
        self._found.append((sent, payload_bytes, whole))

    def offloads(self) -> Offloads:
        """All that was counted."""
        sent, payload_bytes, socket_bytes = zip(*self._found, strict=True) if self._found else ((), (), ())
        return Offloads(
            self._rule.payload,
            np.array(sent, dtype=np.str_),
            np.array(payload_bytes, dtype=np.int64),
            np.array(socket_bytes, dtype=np.int64),
        )
