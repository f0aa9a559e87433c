"""Offloading over gRPC: one channel, a deadline on every call, retries that are safe, a breaker."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar

import grpc
import numpy as np
from pydantic import Field

from offramp.bundle.manifest import Codec, Manifest
from offramp.engine.tier import Answer, Handover
from offramp.errors import BundleMismatchError, ConfigError, OffloadError, OffloadReason
from offramp.logs import line
from offramp.record import Record
from offramp.serving.offload.breaker import Breaker
from offramp.serving.offload.offloader import Resumed, Sent, TierTime, UpstreamAnswer, UpstreamState
from offramp.serving.tracing import HEADER
from offramp.wire.codec import codec_number, encode_feature, expected_bytes
from offramp.wire.messages import BYTES_OF_CALL, MESSAGE_OPTIONS, SERVICE_NAME, probabilities_from_bytes
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceStub

_log = logging.getLogger("offramp.serving.offload")

_REASONS = {
    grpc.StatusCode.UNAVAILABLE: OffloadReason.UNREACHABLE,
    grpc.StatusCode.CANCELLED: OffloadReason.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: OffloadReason.LATE,
    grpc.StatusCode.FAILED_PRECONDITION: OffloadReason.MISMATCH,
}

# Infer is pure, so a call that may not have reached its server is safe to send again: UNAVAILABLE only.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": SERVICE_NAME}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.02s",
                "maxBackoff": "0.2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
# Leaves a replica that drains; round-robin takes the next one.
_HEALTH_CHECK = {"healthCheckConfig": {"serviceName": SERVICE_NAME}}
_CHANNEL_OPTIONS = [
    *MESSAGE_OPTIONS,
    # A cloud that comes back is found within a second, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A replica that took another address is found after a second, not after half a minute.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
]


def channel_options(*, health_check: bool = True) -> list[tuple[str, str | int]]:
    """What a channel to an upstream is opened with: round-robin over its addresses, safe retries, limits."""
    config = {**_SERVICE_CONFIG, **(_HEALTH_CHECK if health_check else {})}
    return [*_CHANNEL_OPTIONS, ("grpc.service_config", json.dumps(config))]


def _detail(error: OffloadError) -> str:
    cause = error.__cause__
    return f"{error}: {cause.details()}" if isinstance(cause, grpc.aio.AioRpcError) else str(error)


AnyMessage = TypeVar("AnyMessage")


class UpstreamSettings(Record):
    """How an upstream is asked."""

    target: str = Field(min_length=1, description="HOST:PORT, or dns:///NAME:PORT for several replicas")
    health_check: bool = Field(
        default=True,
        description="whether the channel watches each address's health; not through a proxy, where one draining "
        "replica would speak for all of them",
    )
    failures_to_open: int = Field(default=3, ge=1)
    probe_interval_s: float = Field(default=0.5, gt=0)
    probe_interval_max_s: float = Field(default=4.0, gt=0)
    probe_timeout_s: float = Field(default=2.0, gt=0)


class GrpcOffloader:
    """An `Offloader` over gRPC. Used as an async context manager, inside the loop that serves."""

    def __init__(
        self, settings: UpstreamSettings, manifest: Manifest, *, tier: str, split_point: int, codec: Codec
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            settings: whom to ask, and how patiently.
            manifest: of the bundle both sides must run.
            tier: name of this node's tier, for messages.
            split_point: first block the upstream has to run.
            codec: how features travel.
        """
        self._settings = settings
        self._manifest = manifest
        self._tier = tier
        self._split_point = split_point
        self._codec = codec
        self._levels = manifest.blocks[split_point - 2].levels
        self._feature_bytes = expected_bytes(manifest.blocks[split_point - 2], codec)
        self._takes_images = False
        self._breaker = Breaker(failures=settings.failures_to_open)
        self._probing: asyncio.Task[None] | None = None
        self._probe_delay_s = settings.probe_interval_s

    async def __aenter__(self) -> Self:
        """Connect and ask the upstream what it serves.

        An upstream that cannot be reached is a warning: the node starts and answers degraded.

        Raises:
            BundleMismatchError: it runs another bundle.
            ConfigError: it does not run the block this node splits at, or cannot decode the codec.
        """
        self._channel = grpc.aio.insecure_channel(
            self._settings.target, options=channel_options(health_check=self._settings.health_check)
        )
        self._stub: Any = TierServiceStub(self._channel)  # type: ignore[no-untyped-call] # generated
        try:
            await self._probe()
        except OffloadError as error:
            self._open(error)
        except BaseException:
            await self._channel.close(None)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._probing:
            self._probing.cancel()
            with suppress(asyncio.CancelledError):
                await self._probing
        await self._channel.close(None)

    @property
    def state(self) -> UpstreamState:
        """Whether the upstream is being asked at the moment."""
        cause = self._breaker.cause
        return UpstreamState(self._settings.target, cause is None, str(cause) if cause else None)

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
        """Finish samples upstream, in one call, or two if some go as images; see `Offloader.resume`."""
        if self._breaker.cause:
            raise OffloadError(str(self._breaker.cause), self._breaker.cause.reason)
        by_sent: dict[Sent, list[int]] = {}
        for at in range(len(handovers)):
            by_sent.setdefault(self._smaller(images[at] if images else None), []).append(at)
        calls = []
        for sent, samples in by_sent.items():
            request = pb.InferRequest(
                bundle_id=self._manifest.bundle_id,
                request_ids=[request_ids[at] for at in samples],
                thetas=thetas,
                next_block=1 if sent == "image" else handovers[0].next_block,
            )
            if sent == "image" and images:
                request.images.extend(images[at] for at in samples)
            else:
                feature = np.stack([handovers[at].feature for at in samples])
                request.feature.CopyFrom(encode_feature(feature, self._codec, self._levels))
            calls.append(self._ask(request, sent, timeout_s, traceparent))
        parts = await asyncio.gather(*calls)
        answers = dict(
            zip(
                (at for samples in by_sent.values() for at in samples),
                (answer for part in parts for answer in part.answers),
                strict=True,
            )
        )
        slowest = max(parts, key=lambda part: sum(time.queue_ms + time.compute_ms for time in part.times))
        return Resumed(
            [answers[at] for at in range(len(handovers))],
            slowest.times,
            sum(part.uplink_bytes for part in parts),
        )

    def _smaller(self, image: bytes | None) -> Sent:
        return "image" if image and self._takes_images and len(image) < self._feature_bytes else "feature"

    async def _ask(
        self, request: pb.InferRequest, sent: Sent, timeout_s: float, traceparent: str | None
    ) -> Resumed:
        uplink_bytes = request.ByteSize() + BYTES_OF_CALL
        try:
            response = await self._call(request, timeout_s, traceparent)
            answers = self._answers(response, request.request_ids, sent)
        except OffloadError as error:
            if error.reason is not OffloadReason.UNREACHABLE:
                error.uplink_bytes = uplink_bytes
            if self._breaker.failed(error):
                self._open(error)
            raise
        self._breaker.succeeded()
        times = [TierTime(time.tier, time.queue_ms, time.compute_ms) for time in response.times]
        return Resumed(answers, times, uplink_bytes)

    async def _call(
        self, request: pb.InferRequest, timeout_s: float, traceparent: str | None
    ) -> pb.InferResponse:
        metadata = ((HEADER, traceparent),) if traceparent else None
        try:
            response: pb.InferResponse = await self._stub.Infer(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise self._translate(error, timeout_s) from error
        return self._readable(response)

    def _readable(self, response: AnyMessage | None) -> AnyMessage:
        # grpc.aio gives None for bytes it cannot decode.
        if response is None:
            raise OffloadError(
                f"{self._settings.target} answered with bytes that are no message; it is not an Offramp node",
                OffloadReason.REFUSED,
            )
        return response

    def _answers(
        self, response: pb.InferResponse, request_ids: Sequence[str], sent: Sent
    ) -> list[UpstreamAnswer]:
        found = [answer.request_id for answer in response.answers]
        if found != list(request_ids):
            raise OffloadError(
                f"{self._settings.target} answered {len(found)} samples {found[:3]}, asked for "
                f"{len(request_ids)} {list(request_ids)[:3]}; it is not an Offramp node of this version",
                OffloadReason.REFUSED,
            )
        return [self._answer(answer, sent) for answer in response.answers]

    def _answer(self, message: pb.Answer, sent: Sent) -> UpstreamAnswer:
        manifest = self._manifest
        probabilities_K = probabilities_from_bytes(message.probabilities, len(manifest.labels))
        if (
            probabilities_K is None
            or not 1 <= message.exit_number <= manifest.num_exits
            or not 0 <= message.confidence <= 1
        ):
            raise OffloadError(
                f"{self._settings.target} answered with {len(message.probabilities)} bytes of probabilities, "
                f"confidence {message.confidence:g}, exit {message.exit_number}; expected "
                f"{len(manifest.labels)} float32, 0 to 1, and 1 to {manifest.num_exits}",
                OffloadReason.REFUSED,
            )
        answer = Answer(probabilities_K, message.confidence, message.exit_number)
        return UpstreamAnswer(answer, message.tier, message.degraded_reason or None, sent)

    def _open(self, error: OffloadError) -> None:
        # An upstream that answers probes but not calls is asked more and more rarely.
        twice = min(2 * self._probe_delay_s, self._settings.probe_interval_max_s)
        self._probe_delay_s = twice if self._breaker.is_on_trial else self._settings.probe_interval_s
        self._breaker.hold_open(error)
        _log.warning(
            line("upstream_lost", upstream=self._settings.target, reason=error.reason, detail=_detail(error))
        )
        if not self._probing or self._probing.done():
            self._probing = asyncio.create_task(self._probe_until_well())

    async def _probe_until_well(self) -> None:
        while True:
            await asyncio.sleep(self._probe_delay_s)
            try:
                await self._probe()
            except OffloadError as error:
                self._breaker.hold_open(error)
            except (BundleMismatchError, ConfigError) as error:
                self._breaker.hold_open(OffloadError(str(error), OffloadReason.MISMATCH))
            except Exception:  # noqa: BLE001 - the probe is what brings the upstream back: it must not end
                _log.exception(line("probe_failed", upstream=self._settings.target))
            else:
                _log.info(line("upstream_found", upstream=self._settings.target))
                return

    async def _probe(self) -> None:
        timeout_s = self._settings.probe_timeout_s
        try:
            found: pb.DescribeResponse = await self._stub.Describe(pb.DescribeRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise self._translate(error, timeout_s) from error
        self._check(self._readable(found))
        self._breaker.probed()

    def _check(self, found: pb.DescribeResponse) -> None:
        mine = self._manifest.bundle_id
        if found.bundle_id != mine:
            raise BundleMismatchError(
                f"{self._tier} runs bundle '{mine}', {found.tier} at {self._settings.target} runs "
                f"'{found.bundle_id}'; deploy the same bundle to both tiers"
            )
        if not found.first_block <= self._split_point <= found.last_block:
            raise ConfigError(
                f"{self._tier} hands over at block {self._split_point}, but {found.tier} at "
                f"{self._settings.target} runs blocks {found.first_block} to {found.last_block}; "
                "give one of them other --blocks"
            )

        self._takes_images = found.first_block == 1
        if codec_number(self._codec) not in found.codecs:
            raise ConfigError(
                f"{self._tier} sends features as {self._codec}, which {found.tier} at {self._settings.target} "
                "does not decode; deploy the same version of Offramp to both tiers"
            )

    def _translate(self, error: grpc.aio.AioRpcError, timeout_s: float) -> OffloadError:
        reason = _REASONS.get(error.code(), OffloadReason.REFUSED)
        target = self._settings.target
        match reason:
            case OffloadReason.LATE:
                text = f"{target} did not answer within {timeout_s * 1000:.0f} ms"
            case OffloadReason.UNREACHABLE:
                text = f"{target} cannot be reached"
            case _:
                text = f"{target} refused: {error.code().name}: {error.details()}"
        return OffloadError(text, reason)
