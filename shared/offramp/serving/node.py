"""A node: a tier, and optionally an upstream. The front doors, REST or gRPC, only translate.

`classify` is the one path of every sample through a node: run the tier, hand over what no exit is sure of,
and where the upstream does not answer, fall back to the surest local exit and say so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from offramp.engine.tier import Answer, Handover, Tier, aggregated
from offramp.errors import OffloadError, OffloadReason, OverloadError
from offramp.serving.batching import Batcher, Call
from offramp.serving.metrics import NodeMetrics
from offramp.serving.offload import Offloader, Resumed, Sent, TierTime
from offramp.serving.tracing import OFF, Trace, Tracing

# Left of a call's deadline for the way back, when this node asks an upstream of its own.
_WAY_BACK_S = 0.05


@dataclass(frozen=True, eq=False)
class Classified:
    """One sample's answer: which tier gave it, why not a deeper one, what that tier was sent, and what it cost."""

    answer: Answer
    tier: str
    degraded_reason: str | None
    sent: Sent | None
    uplink_bytes: int
    degraded_by: OffloadReason | None = None

    @property
    def offloaded(self) -> bool:
        """Whether another tier gave the answer."""
        return self.sent is not None


@dataclass(frozen=True, eq=False)
class Batch:
    """Answers for all samples of one request, in order, and where the time went."""

    samples: Sequence[Classified]
    load_ms: float
    times: Sequence[TierTime]
    offload_ms: float


class Node:
    """Runs its tier and asks its upstream for the rest."""

    def __init__(
        self,
        tier: Tier,
        *,
        name: str,
        upstream: Offloader | None,
        offload_timeout_s: float,
        batcher: Batcher,
        max_pending: int,
        tracing: Tracing = OFF,
    ) -> None:
        """Join the parts.

        Args:
            tier: blocks to run here.
            name: of the tier, as answers and logs show it.
            upstream: asked for what no exit here is sure of; None for the last tier.
            offload_timeout_s: deadline of a call to the upstream, in seconds.
            batcher: runs the tier.
            max_pending: calls under way or waiting for their turn, beyond which new ones are refused.
            tracing: where spans go.
        """
        self.tier = tier
        self.name = name
        self.upstream = upstream
        self._offload_timeout_s = offload_timeout_s
        self._batcher = batcher
        self._max_pending = max_pending
        self._pending = 0
        self._tracing = tracing
        self.metrics = NodeMetrics(tier.manifest)
        self.metrics.watch(
            "pending", "Calls under way or waiting for their turn.", lambda: self._pending, sums=True
        )
        if upstream is not None:
            self.metrics.watch(
                "upstream_up", "1 while the upstream is being asked.", lambda: float(upstream.state.up)
            )

    def check_room(self) -> None:
        """Whether one more call is taken; a front door may ask before it looks at what is in it.

        Raises:
            OverloadError: as many are under way as this node takes.
        """
        if self._pending >= self._max_pending:
            raise OverloadError(
                f"{self._pending} requests are under way, the most this node takes; try again later"
            )

    async def classify(
        self,
        call: Call,
        *,
        request_ids: Sequence[str],
        images: Sequence[bytes] | None = None,
        traceparent: str | None = None,
    ) -> Batch:
        """Answer a call's samples.

        Args:
            call: the samples, θ, and where to begin.
            request_ids: one for each sample.
            images: the files the samples came as, if they did: an upstream may be sent them instead of features.
            traceparent: the caller's span, as W3C writes it.

        Raises:
            OverloadError: the queue is full; nothing was done.
            ExpiredError: the call's deadline passed in the queue; nothing was done.
            OffloadError: the upstream did not answer, and some sample passed no local exit.
        """
        self.check_room()
        self._pending += 1
        started = time.perf_counter()
        try:
            named: dict[str, str | int] = {
                "offramp.request_id": request_ids[0],
                "offramp.samples": len(request_ids),
            }
            with self._tracing.request(f"{self.name} classify", traceparent, **named) as trace:
                batch = await self._classify(call, request_ids, images, trace)
            # Counted once the answer is on its way.
            asyncio.get_running_loop().call_soon(self.metrics.answered, batch, time.perf_counter() - started)
            return batch
        finally:
            self._pending -= 1

    async def _classify(
        self,
        call: Call,
        request_ids: Sequence[str],
        images: Sequence[bytes] | None,
        trace: Trace,
    ) -> Batch:
        ran = await self._batcher.run(call)
        outcomes = ran.outcomes
        own = TierTime(self.name, ran.queue_ms, ran.compute_ms)
        trace.stages({"queue": ran.queue_ms, "decode": ran.load_ms, "blocks": ran.compute_ms})
        undecided = [at for at, outcome in enumerate(outcomes) if isinstance(outcome, Handover)]
        samples = {
            at: Classified(outcome, self.name, None, sent=None, uplink_bytes=0)
            for at, outcome in enumerate(outcomes)
            if isinstance(outcome, Answer)
        }
        times, offload_ms = [own], 0.0
        if undecided:
            before = time.perf_counter()
            handovers = [outcome for outcome in outcomes if isinstance(outcome, Handover)]
            try:
                with trace.child("offload") as offload:
                    resumed = await self._resume(
                        handovers,
                        call,
                        [request_ids[at] for at in undecided],
                        [images[at] for at in undecided] if images else None,
                        offload.traceparent,
                    )
                finished = self._finished(resumed, handovers, call.first_block)
                times.extend(resumed.times)
            except OffloadError as error:
                share = _share(error.uplink_bytes, len(handovers))
                finished = [self._degraded(handover, error, share) for handover in handovers]
            samples.update(zip(undecided, finished, strict=True))
            offload_ms = _ms(before, time.perf_counter())
        return Batch([samples[at] for at in range(len(outcomes))], ran.load_ms, times, offload_ms)

    async def _resume(
        self,
        handovers: Sequence[Handover],
        call: Call,
        request_ids: Sequence[str],
        images: Sequence[bytes] | None,
        traceparent: str | None,
    ) -> Resumed:
        assert self.upstream is not None, "a tier that is not the last has an upstream"
        limit = self._offload_timeout_s
        if call.deadline is not None:
            limit = min(limit, call.deadline - time.monotonic() - _WAY_BACK_S)
        if limit <= 0:
            raise OffloadError(f"no time was left to ask the tier behind {self.name}", OffloadReason.LATE)
        return await self.upstream.resume(
            handovers,
            thetas=call.thetas,
            request_ids=request_ids,
            timeout_s=limit,
            images=images,
            traceparent=traceparent,
        )

    def _finished(
        self, resumed: Resumed, handovers: Sequence[Handover], first_block: int
    ) -> list[Classified]:
        share = _share(resumed.uplink_bytes, len(resumed.answers))
        manifest = self.tier.manifest
        finished = []
        for found, handover in zip(resumed.answers, handovers, strict=True):
            answer = found.answer
            if found.sent == "feature":  # who is sent the image passes all exits itself
                answer = aggregated(answer, handover.passed, manifest=manifest, first_block=first_block)
            finished.append(
                Classified(answer, found.tier, found.degraded_reason, sent=found.sent, uplink_bytes=share)
            )
        return finished

    def _degraded(self, handover: Handover, error: OffloadError, uplink_bytes: int) -> Classified:
        if handover.surest is None:
            raise error
        return Classified(handover.surest, self.name, str(error), None, uplink_bytes, error.reason)

    def close(self) -> None:
        """Let the workers finish what they have begun; what waits for one is cancelled."""
        self._batcher.close()


def _share(total_bytes: int, count: int) -> int:
    return -(-total_bytes // count)


def _ms(start: float, stop: float) -> float:
    return (stop - start) * 1000
