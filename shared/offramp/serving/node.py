"""A node: a tier, and optionally an upstream. The front doors, REST or gRPC, only translate.

Every sample goes through `classify`: it runs the tier and hands over the samples that no exit is confident about. If
the upstream does not answer, it falls back to the most confident local exit and says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from opentelemetry.trace import Span, Tracer

from offramp.engine.tier import Answer, Handover, Outcome, Tier, aggregated
from offramp.errors import OffloadError, OffloadReason, OverloadError
from offramp.serving.answers import Answers, Classified, TierTime
from offramp.serving.batching import Batcher, Ran
from offramp.serving.call import Call
from offramp.serving.crowd import Crowd
from offramp.serving.decoding.decoders import Decoders
from offramp.serving.metrics import NodeMetrics
from offramp.serving.offload import Offloader, UpstreamState
from offramp.serving.tracing import OFF, request_span, span_below, traceparent_of

# How much of a call's deadline is kept for sending the answer back, when this node asks its own upstream.
_WAY_BACK_S = 0.05
# The slowest batch of any network that is worth serving takes far less.
_STUCK_S = 30.0


class Node:
    """Runs its tier, and asks its upstream for the rest."""

    def __init__(
        self,
        tier: Tier,
        *,
        name: str,
        upstream: Offloader | None,
        offload_timeout_s: float,
        batcher: Batcher,
        decoders: Decoders,
        max_pending: int,
        crowd: Crowd | None = None,
        tracer: Tracer = OFF,
    ) -> None:
        """Connect the parts.

        Args:
            tier: blocks to run here.
            name: of the tier, as answers and logs show it.
            upstream: finishes the samples that no exit here is confident about; None for the last tier.
            offload_timeout_s: longest wait for the upstream, in seconds.
            batcher: runs the tier.
            decoders: decode what is not light, before the batcher gets it.
            max_pending: most calls in progress or queued; further ones are refused.
            crowd: counts the calls under way, for who else wants to know; one of its own if not given.
            tracer: records the spans.
        """
        self.tier = tier
        self.name = name
        self.upstream = upstream
        self._offload_timeout_s = offload_timeout_s
        self._batcher = batcher
        self._decoders = decoders
        self._max_pending = max_pending
        self._crowd = crowd or Crowd()
        self._tracer = tracer
        self.metrics = NodeMetrics(tier.manifest)
        self.metrics.watch(
            "pending", "Calls in progress or queued.", lambda: self._crowd.under_way, sums=True
        )
        if upstream is not None:
            self.metrics.watch(
                "upstream_up",
                "1 while the upstream is in use, 0 after it was lost.",
                lambda: float(upstream.state.up),
            )

    @property
    def behind(self) -> UpstreamState | None:
        """The nearest tier behind this one that does not answer, or its upstream; None for the last tier."""
        return self.upstream.state.weakest if self.upstream else None

    @property
    def trouble(self) -> str | None:
        """Why this node cannot answer, or not for long; None while it can."""
        if (stuck_s := self._batcher.longest_s) >= _STUCK_S:
            return f"a worker has been busy with one batch for {stuck_s:.0f} s; restart this node"
        blocks = self.tier.manifest.blocks[self.tier.start - 1 : self.tier.stop]
        if self.upstream is None or self.upstream.state.up or any(block.exit for block in blocks):
            return None
        return f"no exit of its own, and {self.upstream.state.reason}"

    def check_room(self) -> None:
        """Check that there is room for one more call; a front door may do so before it looks inside the call.

        Raises:
            OverloadError: this node already has as many calls as it takes.
        """
        if self._crowd.under_way >= self._max_pending:
            raise OverloadError(
                f"{self._crowd.under_way} requests are under way, the most this node takes; try again later"
            )

    async def classify(self, call: Call) -> Answers:
        """Answer a call's samples.

        Raises:
            OverloadError: the queue is full; nothing was done.
            ExpiredError: the call's deadline passed in the queue, or while its images were decoded.
            RequestError: its images cannot be decoded, or take too long.
            OffloadError: the upstream did not answer, and some sample passed no local exit.
        """
        self.check_room()
        self._crowd.enter()
        started = time.perf_counter()
        try:
            named: dict[str, str | int] = {
                "offramp.request_id": call.samples[0].request_id,
                "offramp.samples": len(call.samples),
            }
            with request_span(self._tracer, f"{self.name} classify", call.traceparent, named) as span:
                answers = await self._classify(call, span)
            # Counted once the answer is on its way.
            asyncio.get_running_loop().call_soon(
                self.metrics.answered, answers, time.perf_counter() - started
            )
            return answers
        finally:
            self._crowd.leave()

    async def _classify(self, call: Call, span: Span) -> Answers:
        ran = await self._run(call)
        span.set_attributes(
            {
                "offramp.queue_ms": ran.queue_ms,
                "offramp.decode_ms": ran.load_ms,
                "offramp.blocks_ms": ran.compute_ms,
            }
        )
        handovers = [outcome for outcome in ran.outcomes if isinstance(outcome, Handover)]
        finished: Iterator[Classified] = iter(())
        times, offload_ms = [TierTime(self.name, ran.queue_ms, ran.compute_ms)], 0.0
        if handovers:
            before = time.perf_counter()
            try:
                resumed = await self._resume(call, ran.outcomes, span)
                finished = self._joined(resumed, handovers, call.first_block)
                times.extend(resumed.times)
            except OffloadError as error:
                finished = iter([self._degraded(handover, error) for handover in handovers])
            offload_ms = (time.perf_counter() - before) * 1000
        samples = [
            Classified(outcome, self.name) if isinstance(outcome, Answer) else next(finished)
            for outcome in ran.outcomes
        ]
        return Answers(samples, times, load_ms=ran.load_ms, offload_ms=offload_ms)

    async def _run(self, call: Call) -> Ran:
        if call.is_light or call.load is None:
            return await self._batcher.run(call)
        shape = (len(call.samples), *self.tier.manifest.preprocessing.pixel_shape)
        num_pixels = sum(sample.num_pixels for sample in call.samples)
        decoded = await self._decoders.decode(
            call.load, num_pixels=num_pixels, shape=shape, deadline=call.deadline
        )
        ran = await self._batcher.run(replace(call, load=lambda: decoded.pixels, is_light=True))
        return replace(ran, queue_ms=ran.queue_ms + decoded.queue_ms, load_ms=ran.load_ms + decoded.load_ms)

    async def _resume(self, call: Call, outcomes: Sequence[Outcome], span: Span) -> Answers:
        assert self.upstream is not None, "a tier that is not the last has an upstream"
        with span_below(self._tracer, span, "offload") as offload:
            now = time.monotonic()
            deadline = min(now + self._offload_timeout_s, call.deadline - _WAY_BACK_S)
            if deadline <= now:
                raise OffloadError(f"no time was left to ask the tier behind {self.name}", OffloadReason.LATE)
            with self._crowd.asking():
                return await self.upstream.resume(
                    call.rest(outcomes, deadline=deadline, traceparent=traceparent_of(offload))
                )

    def _joined(
        self, resumed: Answers, handovers: Sequence[Handover], first_block: int
    ) -> Iterator[Classified]:
        """The upstream's answers, combined with what the exits passed here say."""
        answered = iter(resumed.samples)
        for at, handover in enumerate(handovers):
            if at in resumed.failed:
                yield self._degraded(handover, resumed.failed[at])
                continue
            found = next(answered)
            answer, own, deeper = found.answer, handover.confidences, found.answer.passed
            if found.sent == "feature":
                answer = aggregated(
                    answer, handover.passed, manifest=self.tier.manifest, first_block=first_block
                )
                passed = own + deeper
            else:  # an upstream that gets a picture passes all exits itself
                passed = own[: max(answer.exit_number - 1, len(deeper))] + deeper[len(own) :]
            whole = Answer(
                answer.probabilities,
                answer.confidence,
                answer.exit_number,
                passed,
                answer.unfamiliar or handover.unfamiliar,
            )
            yield Classified(
                whole,
                found.tier,
                found.degraded_reason,
                found.degraded_by,
                found.sent,
                found.uplink_bytes,
            )

    def _degraded(self, handover: Handover, error: OffloadError) -> Classified:
        if handover.surest is None:
            raise error
        return Classified(
            handover.surest, self.name, str(error), error.reason, uplink_bytes=error.uplink_bytes
        )

    def close(self) -> None:
        """Let the workers finish the batches they have begun; waiting calls are cancelled, decoders are killed."""
        self._decoders.close()
        self._batcher.close()
