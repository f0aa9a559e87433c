"""What a call's samples are answered, whoever answered them: an exit of this node, or another tier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from offramp.engine.tier import Answer
from offramp.errors import OffloadReason

# What a tier handed over: the feature it computed, or the image as it had received it.
Sent = Literal["feature", "image"]


@dataclass(frozen=True, slots=True)
class TierTime:
    """What one tier spent on a call: waiting for a worker, and running blocks; decoding is in neither."""

    tier: str
    queue_ms: float
    compute_ms: float


@dataclass(frozen=True, eq=False, slots=True)
class Classified:
    """One sample's answer, and what it cost.

    Args:
        answer: of the exit that gave it.
        tier: name of the tier which that exit sits on.
        degraded_reason: why no deeper tier gave it; None if it did, or was not needed.
        degraded_by: the same in one word, if it was this node that asked in vain.
        sent: what the next tier was sent to answer it; None if this node answered.
        uplink_bytes: the sample's share of what was sent to the next tier, framing included, in vain or not.
    """

    answer: Answer
    tier: str
    degraded_reason: str | None = None
    degraded_by: OffloadReason | None = None
    sent: Sent | None = None
    uplink_bytes: int = 0

    @property
    def offloaded(self) -> bool:
        """Whether another tier gave the answer."""
        return self.sent is not None


@dataclass(frozen=True, eq=False, slots=True)
class Answers:
    """Answers for all samples of one call, in order, and where the time went.

    times: of the tier that was asked first, then of those behind it. load_ms: decoding. offload_ms: waiting for the
    next tier; 0 if it was not needed.
    """

    samples: Sequence[Classified]
    times: Sequence[TierTime]
    load_ms: float = 0.0
    offload_ms: float = 0.0
