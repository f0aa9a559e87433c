"""Makes the service's calls over one channel, with deadlines, safe retries, and our own errors."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Self, TypeVar

import grpc
from google.protobuf.message import DecodeError
from pydantic import Field

from offramp.errors import OffloadError, OffloadReason
from offramp.record import Record
from offramp.serving.access.certificates import CertificateFiles, Certificates, followed, private_file
from offramp.serving.access.following import Followed
from offramp.serving.access.tls import channel_credentials
from offramp.serving.offload.streams import StreamEndedError, Streams
from offramp.serving.tracing import TRACEPARENT
from offramp.wire.messages import (
    BYTES_OF_CALL,
    BYTES_ON_STREAM,
    KEEPALIVE_S,
    MAX_MESSAGE_BYTES,
    MESSAGE_OPTIONS,
    SERVICE_NAME,
    told,
)
from offramp.wire.v1 import wire_pb2 as pb

_REASONS = {
    grpc.StatusCode.UNAVAILABLE: OffloadReason.UNREACHABLE,
    grpc.StatusCode.CANCELLED: OffloadReason.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: OffloadReason.LATE,
    grpc.StatusCode.FAILED_PRECONDITION: OffloadReason.MISMATCH,
}

# Leaves out a replica that answers none of its calls while another does: gRFC A50. Refusals count as failures there, so
# a replica that is merely overloaded must not reach the threshold.
_OUTLIERS = {
    "interval": "0.5s",
    "baseEjectionTime": "3s",
    "maxEjectionTime": "10s",
    "maxEjectionPercent": 50,
    "failurePercentageEjection": {
        "threshold": 99,
        "enforcementPercentage": 100,
        "minimumHosts": 2,
        "requestVolume": 3,
    },
    "childPolicy": [{"round_robin": {}}],
}
# Infer is pure, so a call that may not have reached its server can safely be sent again. That is UNAVAILABLE only.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"outlier_detection_experimental": _OUTLIERS}],
    "methodConfig": [
        {
            "name": [{"service": SERVICE_NAME, "method": method} for method in ("Infer", "Describe")],
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
# Makes the channel leave a draining replica; round-robin takes the next one.
_HEALTH_CHECK = {"healthCheckConfig": {"serviceName": SERVICE_NAME}}
_CHANNEL_OPTIONS = [
    *MESSAGE_OPTIONS,
    # A cloud that comes back is found within a second, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 700),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A replica with a new address is found within a second, not after half a minute.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
]
_MOST_MS = 2**32 - 1
Reply = TypeVar("Reply", pb.InferResponse, pb.DescribeResponse)
_GRACE_S = 5.0  # for calls under way when certificates change


def channel_options(
    *, health_check: bool = True, max_answer_bytes: int = MAX_MESSAGE_BYTES
) -> list[tuple[str, str | int]]:
    """Options of a channel to an upstream: round-robin over its addresses, safe retries, limits."""
    config = {**_SERVICE_CONFIG, **(_HEALTH_CHECK if health_check else {})}
    return [
        *_CHANNEL_OPTIONS,
        ("grpc.max_receive_message_length", max_answer_bytes),
        ("grpc.service_config", json.dumps(config)),
    ]


class UpstreamSettings(Record):
    """Where an upstream is, and how it is called and probed."""

    target: str = Field(min_length=1, description="HOST:PORT, or dns:///NAME:PORT for several replicas")
    certificates: CertificateFiles = Field(
        default=CertificateFiles(), description="with any, the connection is encrypted"
    )
    certificate_name: str | None = Field(
        default=None, description="name in the upstream's certificate, if it is not that of its address"
    )
    api_key: Path | None = Field(default=None, description="file with the API key to show")
    # A connection that answers nothing is given up, and a new one made. Otherwise, after an outage, TCP would wait as
    # long again before it sends anything.
    keepalive_s: float = Field(default=KEEPALIVE_S, gt=0, description="how often an idle connection is tried")
    keepalive_timeout_s: float = Field(
        default=2.0,
        gt=0,
        description="how long a connection may answer nothing, or not confirm what was sent",
    )
    health_check: bool = Field(
        default=True,
        description="whether the channel watches the health of each address, and calls may stay open; turn it off "
        "behind a proxy, where one draining replica would answer for all, and which spreads calls and not messages",
    )
    failures_to_open: int = Field(default=3, ge=1)
    probe_interval_s: float = Field(default=0.5, gt=0)
    probe_interval_max_s: float = Field(default=4.0, gt=0)
    probe_timeout_s: float = Field(default=2.0, gt=0)
    refresh_s: float = Field(
        default=5.0, gt=0, description="how often an upstream with a tier behind it is asked how that is"
    )


def _opened(
    settings: UpstreamSettings, certificates: Certificates | None, max_answer_bytes: int
) -> grpc.aio.Channel:
    options = [
        *channel_options(health_check=settings.health_check, max_answer_bytes=max_answer_bytes),
        ("grpc.keepalive_time_ms", round(1000 * settings.keepalive_s)),
        ("grpc.keepalive_timeout_ms", round(1000 * settings.keepalive_timeout_s)),
        ("grpc.http2.ping_timeout_ms", round(1000 * settings.keepalive_timeout_s)),
    ]
    if certificates is None:
        return grpc.aio.insecure_channel(settings.target, options=options)
    if settings.certificate_name:
        options.append(("grpc.ssl_target_name_override", settings.certificate_name))
    return grpc.aio.secure_channel(settings.target, channel_credentials(certificates), options=options)


class TierClient:
    """A client of one upstream. Use it as an async context manager, on the event loop that serves."""

    def __init__(self, settings: UpstreamSettings, *, max_answer_bytes: int = MAX_MESSAGE_BYTES) -> None:
        """Prepare; nothing is connected yet. Larger answers are refused.

        Raises:
            ConfigError: a certificate or the key is not fit to be used.
        """
        self.settings = settings
        self._max_answer_bytes = max_answer_bytes
        self._certificates = followed(settings.certificates) if settings.certificates.given else None
        file = settings.api_key
        self._closing: set[asyncio.Task[None]] = set()
        self._api_key = Followed([file], lambda: private_file(file), what="api_key") if file else None
        self.takes_streams = False  # until the upstream says so

    async def __aenter__(self) -> Self:
        """Open the channel; it connects with the first call."""
        self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close(None)

    @property
    def is_cut_off(self) -> bool:
        """Whether the channel reaches no address of the upstream; it notices without any call."""
        return self._channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE

    def _open(self) -> None:
        self._shown = self._certificates.current if self._certificates else None
        self._channel = _opened(self.settings, self._shown, self._max_answer_bytes)
        self._methods = {
            name: self._channel.unary_unary(f"/{SERVICE_NAME}/{name}", None, None)
            for name in ("Infer", "Describe")
        }
        streamed = self._channel.stream_stream(f"/{SERVICE_NAME}/InferStream", None, None)
        self._streams = Streams(lambda: streamed(None, metadata=self._key()))

    def _follow(self) -> None:
        """Use new certificates from the next call on; calls under way end on the old channel."""
        if self._certificates and self._certificates.current is not self._shown:
            self._streams.close()
            closing = asyncio.create_task(self._channel.close(_GRACE_S))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._open()

    async def infer(
        self, request: pb.InferRequest, *, deadline: float, traceparent: str | None, sent: list[int]
    ) -> pb.InferResponse:
        """Ask for answers and wait until `deadline`, on the clock of `time.monotonic`.

        sent: the bytes on the socket are added to it, as often as the request is sent.

        Raises:
            OffloadError: no answer came.
        """
        self._follow()
        data = None
        if self._may_stream and traceparent is None:
            data = await self._streamed(request, deadline, sent)
        if data is None:
            message = request.SerializeToString()
            sent.append(len(message) + BYTES_OF_CALL)
            metadata = [(TRACEPARENT, traceparent)] if traceparent else []
            data = await self._called("Infer", message, deadline - time.monotonic(), metadata)
        return self._parsed(pb.InferResponse, data)

    @property
    def _may_stream(self) -> bool:
        return self.takes_streams and self.settings.health_check and self._streams.is_ready

    async def _streamed(self, request: pb.InferRequest, deadline: float, sent: list[int]) -> bytes | None:
        """The answer, by a call that stays open; None if that ended instead."""
        timeout_s = max(0.0, deadline - time.monotonic())
        request.timeout_ms = min(max(1, round(1000 * timeout_s)), _MOST_MS)
        message = request.SerializeToString()
        sent.append(len(message) + BYTES_ON_STREAM)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._streams.ask(message)
        except StreamEndedError:
            return None
        except TimeoutError as error:
            raise self._translated(grpc.StatusCode.DEADLINE_EXCEEDED, None, timeout_s) from error
        except grpc.aio.AioRpcError as error:
            raise self._translated(error.code(), error.details(), timeout_s) from error

    async def describe(self) -> pb.DescribeResponse:
        """Ask what the upstream serves.

        Raises:
            OffloadError: no answer came.
        """
        self._follow()
        timeout_s = self.settings.probe_timeout_s
        data = await self._called("Describe", pb.DescribeRequest().SerializeToString(), timeout_s, [])
        return self._parsed(pb.DescribeResponse, data)

    async def _called(
        self, method: str, message: bytes, timeout_s: float, metadata: list[tuple[str, str]]
    ) -> bytes:
        """The answer, by a call for this message alone."""
        metadata.extend(self._key())
        try:
            data: bytes = await self._methods[method](
                message, timeout=max(0.0, timeout_s), metadata=metadata or None
            )
        except grpc.aio.AioRpcError as error:
            raise self._translated(error.code(), error.details(), timeout_s) from error
        return data

    def _key(self) -> list[tuple[str, str]]:
        if not self._api_key:
            return []
        return [("authorization", f"Bearer {self._api_key.current.decode('latin-1').strip()}")]

    def _parsed(self, kind: type[Reply], data: bytes) -> Reply:
        # Parsed here: gRPC would write a traceback into the log for bytes that are no message.
        try:
            return kind.FromString(data)
        except DecodeError as error:
            raise OffloadError(
                f"{self.settings.target} answered with {len(data)} bytes that are not a message; "
                "it is not an Offramp node",
                OffloadReason.REFUSED,
            ) from error

    def _translated(self, code: grpc.StatusCode, details: str | None, timeout_s: float) -> OffloadError:
        reason = _REASONS.get(code, OffloadReason.REFUSED)
        target = self.settings.target
        match reason:
            case OffloadReason.LATE:
                text = f"{target} did not answer within {timeout_s * 1000:.0f} ms"
            case OffloadReason.UNREACHABLE:
                text = f"{target} cannot be reached"
            case _:
                text = f"{target} refused: {code.name}: {told(details or '')}"
        return OffloadError(text, reason, blames_request=code is grpc.StatusCode.INVALID_ARGUMENT)
