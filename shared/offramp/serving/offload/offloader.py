"""The role an upstream plays for a node, whatever carries the calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from offramp.engine.tier import Answer, Handover

# What a tier handed over: the feature it computed, or the image as it had received it.
Sent = Literal["feature", "image"]


@dataclass(frozen=True)
class TierTime:
    """What one tier spent on a call: waiting for a worker, and running blocks; decoding is in neither."""

    tier: str
    queue_ms: float
    compute_ms: float


@dataclass(frozen=True, eq=False)
class UpstreamAnswer:
    """An answer from another tier, and what it was told; `degraded_reason` says why no deeper one gave it."""

    answer: Answer
    tier: str
    degraded_reason: str | None
    sent: Sent


@dataclass(frozen=True, eq=False)
class Resumed:
    """Answers for a batch of handovers, in order, and what they cost."""

    answers: Sequence[UpstreamAnswer]
    times: Sequence[TierTime]
    uplink_bytes: int


@dataclass(frozen=True)
class UpstreamState:
    """Whether the upstream is being asked, and if not, why not."""

    target: str
    up: bool
    reason: str | None


class Offloader(Protocol):
    """Finishes undecided samples on the next tier."""

    @property
    def state(self) -> UpstreamState:
        """Whether the upstream is being asked at the moment."""
        ...

    async def resume(
        self,
        handovers: Sequence[Handover],
        *,
        thetas: Sequence[float],
        request_ids: Sequence[str],
        timeout_s: float,
        images: Sequence[bytes] | None = None,
        traceparent: str | None = None,
    ) -> Resumed:
        """Finish samples that all go on at the same block.

        images: the files they came as, if this node knows them; sent instead where that takes fewer bytes, since a
        network answers the same from the beginning. traceparent: span that the upstream's hang below.

        Raises:
            OffloadError: the upstream is late, gone, refuses, or answers nonsense.
        """
        ...
