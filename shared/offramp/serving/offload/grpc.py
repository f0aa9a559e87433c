"""Offloading over gRPC: one call becomes one message, and the reply becomes its answers."""

from __future__ import annotations

import math
import time
from typing import Self

from offramp.bundle.manifest import Codec, Manifest, Payload
from offramp.errors import OffloadError, OffloadReason
from offramp.serving.answers import Answers
from offramp.serving.call import Call
from offramp.serving.offload.channel import UpstreamSettings
from offramp.serving.offload.checking import AnswerCheck, largest_answer
from offramp.serving.offload.client import TierClient
from offramp.serving.offload.health import UpstreamHealth, Wanted
from offramp.serving.offload.hedging import Hedge
from offramp.serving.offload.offloader import MOST_SAMPLES, Accepts, UpstreamState
from offramp.wire.codec import encode_feature, most_bytes
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
        self._client = TierClient(settings, max_answer_bytes=largest_answer(manifest, MOST_SAMPLES))
        self._check = AnswerCheck(manifest, settings.target)
        wanted = Wanted(
            bundle_id=manifest.bundle_id,
            tier=tier,
            split_point=split_point,
            codec=codec,
            payload=payload,
            feature_bytes=most_bytes(manifest.blocks[split_point - 2], codec),
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
        begun = time.monotonic()
        sent: list[int] = []

        def share() -> int:
            return math.ceil(sum(sent) / len(call.samples))

        async def attempt() -> Answers:
            response = await self._client.infer(
                request, deadline=call.deadline, traceparent=call.traceparent, sent=sent
            )
            self._health.heard(response)
            return self._check.answers(response, call, uplink_bytes=share())

        try:
            answers = await self._hedge.ask(attempt, timeout_s=call.deadline - begun)
        except OffloadError as error:
            if error.reason is not OffloadReason.UNREACHABLE:
                error.uplink_bytes = share()
            self._health.failed(error, begun)
            raise
        self._health.succeeded()
        return answers

    def _request(self, call: Call) -> pb.InferRequest:
        request = pb.InferRequest(
            bundle_id=self._manifest.bundle_id,
            request_ids=[sample.request_id for sample in call.samples],
            thetas=call.thetas,
            next_block=call.first_block,
        )
        if call.sent == "feature":
            request.feature.CopyFrom(encode_feature(call.features, self._codec, self._levels))
        else:
            files = request.images if call.sent == "image" else request.pixels
            files.extend(sample.image or b"" for sample in call.samples)
        return request
