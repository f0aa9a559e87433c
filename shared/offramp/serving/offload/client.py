"""Makes the service's two calls over one channel, with deadlines, safe retries, and our own errors."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf.message import DecodeError
from pydantic import Field

from offramp.errors import OffloadError, OffloadReason
from offramp.record import Record
from offramp.serving.access.certificates import CertificateFiles, Certificates, followed, private_file
from offramp.serving.access.following import Followed
from offramp.serving.access.tls import channel_credentials
from offramp.serving.tracing import TRACEPARENT
from offramp.wire.messages import KEEPALIVE_S, MAX_MESSAGE_BYTES, MESSAGE_OPTIONS, SERVICE_NAME, told
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
# Parsed here: gRPC would write a traceback into the log for bytes that are no message.
_REPLIES: dict[str, Any] = {"Infer": pb.InferResponse, "Describe": pb.DescribeResponse}
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
        description="whether the channel watches the health of each address; turn it off behind a proxy, where one "
        "draining replica would answer for all of them",
    )
    failures_to_open: int = Field(default=3, ge=1)
    probe_interval_s: float = Field(default=0.5, gt=0)
    probe_interval_max_s: float = Field(default=4.0, gt=0)
    probe_timeout_s: float = Field(default=2.0, gt=0)
    refresh_s: float = Field(
        default=5.0, gt=0, description="how often an upstream with a tier behind it is asked how that is"
    )


def _to_bytes(request: Any) -> bytes:
    data: bytes = request.SerializeToString()
    return data


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
            name: self._channel.unary_unary(f"/{SERVICE_NAME}/{name}", _to_bytes, None) for name in _REPLIES
        }

    def _follow(self) -> None:
        """Use new certificates from the next call on; calls under way end on the old channel."""
        if self._certificates and self._certificates.current is not self._shown:
            closing = asyncio.create_task(self._channel.close(_GRACE_S))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._open()

    async def infer(
        self, request: pb.InferRequest, *, deadline: float, traceparent: str | None
    ) -> pb.InferResponse:
        """Ask for answers and wait until `deadline`, on the clock of `time.monotonic`.

        Raises:
            OffloadError: no answer came.
        """
        metadata = [(TRACEPARENT, traceparent)] if traceparent else []
        timeout_s = max(0.0, deadline - time.monotonic())
        response: pb.InferResponse = await self._call("Infer", request, timeout_s, metadata)
        return response

    async def describe(self) -> pb.DescribeResponse:
        """Ask what the upstream serves.

        Raises:
            OffloadError: no answer came.
        """
        timeout_s = self.settings.probe_timeout_s
        response: pb.DescribeResponse = await self._call("Describe", pb.DescribeRequest(), timeout_s, [])
        return response

    async def _call(
        self, method: str, request: object, timeout_s: float, metadata: list[tuple[str, str]]
    ) -> Any:
        self._follow()
        if self._api_key:
            metadata.append(("authorization", f"Bearer {self._api_key.current.decode('latin-1').strip()}"))
        try:
            data = await self._methods[method](request, timeout=timeout_s, metadata=metadata or None)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error, timeout_s) from error
        try:
            return _REPLIES[method].FromString(data)
        except DecodeError as error:
            raise OffloadError(
                f"{self.settings.target} answered with {len(data)} bytes that are not a message; "
                "it is not an Offramp node",
                OffloadReason.REFUSED,
            ) from error

    def _translated(self, error: grpc.aio.AioRpcError, timeout_s: float) -> OffloadError:
        code = error.code()
        reason = _REASONS.get(code, OffloadReason.REFUSED)
        target = self.settings.target
        match reason:
            case OffloadReason.LATE:
                text = f"{target} did not answer within {timeout_s * 1000:.0f} ms"
            case OffloadReason.UNREACHABLE:
                text = f"{target} cannot be reached"
            case _:
                text = f"{target} refused: {code.name}: {told(error.details() or '')}"
        return OffloadError(text, reason, blames_request=code is grpc.StatusCode.INVALID_ARGUMENT)
