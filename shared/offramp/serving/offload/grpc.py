"""Offloading over gRPC: one call becomes one message, and the reply becomes its answers."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import numpy as np

from offramp.bundle.manifest import Codec, Manifest, Payload
from offramp.engine.tier import Answer
from offramp.errors import OffloadError, OffloadReason
from offramp.serving.answers import Answers, Classified, TierTime
from offramp.serving.call import Call
from offramp.serving.offload.client import TierClient, UpstreamSettings
from offramp.serving.offload.health import UpstreamHealth, Wanted
from offramp.serving.offload.hedging import Hedge
from offramp.serving.offload.offloader import Accepts, UpstreamState
from offramp.wire.codec import encode_feature
from offramp.wire.messages import BYTES_OF_CALL, probabilities_from_bytes
from offramp.wire.v1 import wire_pb2 as pb


class GrpcOffloader:
    """An `Offloader` over gRPC. Use it as an async context manager, on the event loop that serves."""

    def __init__(
        self,
        settings: UpstreamSettings,
        manifest: Manifest,
        *,
        tier: str,
        split_point: int,
        codec: Codec,
        payload: Payload = "exact",
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            settings: where the upstream is, and how it is called and probed.
            manifest: of the bundle that both sides must run.
            tier: name of this node's tier, for messages.
            split_point: first block that the upstream has to run.
            codec: how features are encoded.
            payload: what samples travel as; a lossy one needs an upstream that knows it.
        """
        self._manifest = manifest
        self._codec = codec
        self._levels = manifest.blocks[split_point - 2].levels
        self._target = settings.target
        self._client = TierClient(settings)
        wanted = Wanted(
            bundle_id=manifest.bundle_id, tier=tier, split_point=split_point, codec=codec, payload=payload
        )
        self._health = UpstreamHealth(self._client, wanted)
        self._hedge = Hedge()

    async def __aenter__(self) -> Self:
        """Connect and ask the upstream what it serves.

        If it cannot be reached, that is only a warning: the node starts, and its answers are degraded.

        Raises:
            BundleMismatchError: it runs a different bundle.
            ConfigError: it does not run the block this node splits at, or cannot decode the codec or the payload.
        """
        await self._client.__aenter__()
        try:
            await self._health.start()
        except BaseException:
            await self._client.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._health.stop()
        await self._client.__aexit__()

    @property
    def state(self) -> UpstreamState:
        """Whether the upstream is currently in use."""
        return self._health.state

    @property
    def accepts(self) -> Accepts:
        """What the upstream accepts in one call, as it last reported."""
        return self._health.accepts

    async def resume(self, call: Call) -> Answers:
        """Finish samples upstream, in one message; see `Offloader.resume`."""
        self._health.check()
        request = self._request(call)
        share = math.ceil((request.ByteSize() + BYTES_OF_CALL) / len(call.samples))
        begun = time.monotonic()
        attempts = 0

        async def attempt() -> Answers:
            nonlocal attempts
            attempts += 1
            response = await self._client.infer(request, deadline=call.deadline, traceparent=call.traceparent)
            return self._answers(response, call)

        try:
            found = await self._hedge.ask(attempt, timeout_s=call.deadline - begun)
        except OffloadError as error:
            if error.reason is not OffloadReason.UNREACHABLE:
                error.uplink_bytes = attempts * share
            self._health.failed(error, begun)
            raise
        self._health.succeeded()
        return replace(found, samples=[replace(one, uplink_bytes=attempts * share) for one in found.samples])

    def _answers(self, response: pb.InferResponse, call: Call) -> Answers:
        self._check_ids(response, [sample.request_id for sample in call.samples])
        samples = [self._classified(answer, call) for answer in response.answers]
        return Answers(
            samples, [TierTime(each.tier, each.queue_ms, each.compute_ms) for each in response.times]
        )

    def _request(self, call: Call) -> pb.InferRequest:
        request = pb.InferRequest(
            bundle_id=self._manifest.bundle_id,
            request_ids=[sample.request_id for sample in call.samples],
            thetas=call.thetas,
            next_block=call.first_block,
        )
        if call.sent == "feature":
            feature = np.stack([sample.feature for sample in call.samples])
            request.feature.CopyFrom(encode_feature(feature, self._codec, self._levels))
        else:
            files = request.images if call.sent == "image" else request.pixels
            files.extend(sample.image or b"" for sample in call.samples)
        return request

    def _check_ids(self, response: pb.InferResponse, request_ids: Sequence[str]) -> None:
        found = [answer.request_id for answer in response.answers]
        if found != list(request_ids):
            raise OffloadError(
                f"{self._target} answered {len(found)} samples {found[:3]}, asked for "
                f"{len(request_ids)} {list(request_ids)[:3]}; it is not an Offramp node of this version",
                OffloadReason.REFUSED,
            )

    def _classified(self, message: pb.Answer, call: Call) -> Classified:
        manifest = self._manifest
        probabilities_K = probabilities_from_bytes(message.probabilities, manifest)
        if (
            probabilities_K is None
            or not 1 <= message.exit_number <= manifest.num_exits
            or not 0 <= message.confidence <= 1
        ):
            raise OffloadError(
                f"{self._target} answered with {len(message.probabilities)} bytes of probabilities, "
                f"confidence {message.confidence:g}, exit {message.exit_number}; expected "
                f"{manifest.task.num_outputs(len(manifest.labels))} float32 of {manifest.task.kind}, 0 to 1, and 1 to "
                f"{manifest.num_exits}",
                OffloadReason.REFUSED,
            )
        passed = self._passed(message, call.first_block)
        answer = Answer(probabilities_K, message.confidence, message.exit_number, passed, message.unfamiliar)
        return Classified(answer, message.tier, message.degraded_reason or None, sent=call.sent)

    def _passed(self, message: pb.Answer, first_block: int) -> tuple[float, ...]:
        """Confidences of the exits that the upstream passed from block `first_block` on; () if it tells none."""
        passed = tuple(message.passed)
        before = sum(block < first_block for block in self._manifest.exit_blocks)
        least = message.exit_number - before - (not message.degraded_reason)
        most = self._manifest.num_exits - before - 1 if message.degraded_reason else least
        wanted = f"{least}" if least == most else f"{least} to {most}"
        # NaN compares as False, so it is refused too.
        if passed and not (least <= len(passed) <= most and all(0 <= one <= 1 for one in passed)):
            raise OffloadError(
                f"{self._target} says that a sample passed exits with confidences {_listed(passed)} before exit "
                f"{message.exit_number} answered; expected {wanted}, each from 0 to 1",
                OffloadReason.REFUSED,
            )
        return passed


def _listed(confidences: Sequence[float]) -> str:
    shown = ", ".join(f"{one:g}" for one in confidences[:8])
    return f"{shown}, …" if len(confidences) > 8 else shown
