"""The answers to a call's samples, whether an exit of this node gave them or another tier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from offramp.engine.payload import Sent
from offramp.engine.tier import Answer
from offramp.errors import OffloadError, OffloadReason


@dataclass(frozen=True, slots=True)
class TierTime:
    """Time that one tier spent on a call: waiting for its turn, and running blocks. Neither includes decoding."""

    tier: str
    queue_ms: float
    compute_ms: float


@dataclass(frozen=True, eq=False, slots=True)
class Classified:
    """One sample's answer, and what it cost.

    Args:
        answer: the answer of one exit.
        tier: name of the tier that has this exit.
        degraded_reason: why no deeper tier answered; None if one did, or if none was needed.
        degraded_by: the same in one word, if it was this node whose upstream did not answer.
        sent: what the next tier answered from; None if this node answered.
        uplink_bytes: the sample's share of the bytes sent to the next tier, framing included, answered or not.
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
    """Answers for the samples of one call, in order, and where the time went.

    failed: why a sample has no answer, by its place in the call; `samples` are the answers of the others. times: first
    this tier's, then those of the tiers behind it. load_ms: decoding. offload_ms: waiting for the next tier; 0 if no
    sample was handed over.
    """

    samples: Sequence[Classified]
    times: Sequence[TierTime]
    failed: Mapping[int, OffloadError] = field(default_factory=dict)
    load_ms: float = 0.0
    offload_ms: float = 0.0
