"""Makes the service's two calls over one channel, with deadlines, safe retries, and our own errors."""

from __future__ import annotations

import json
import time
from typing import Any, Self

import grpc
from pydantic import Field

from offramp.errors import OffloadError, OffloadReason
from offramp.record import Record
from offramp.serving.tracing import TRACEPARENT
from offramp.wire.messages import MESSAGE_OPTIONS, SERVICE_NAME
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceStub

_REASONS = {
    grpc.StatusCode.UNAVAILABLE: OffloadReason.UNREACHABLE,
    grpc.StatusCode.CANCELLED: OffloadReason.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: OffloadReason.LATE,
    grpc.StatusCode.FAILED_PRECONDITION: OffloadReason.MISMATCH,
}

# Infer is pure, so a call that may not have reached its server can safely be sent again. That is UNAVAILABLE only.
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
# Makes the channel leave a draining replica; round-robin takes the next one.
_HEALTH_CHECK = {"healthCheckConfig": {"serviceName": SERVICE_NAME}}
_CHANNEL_OPTIONS = [
    *MESSAGE_OPTIONS,
    # A cloud that comes back is found within a second, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A replica with a new address is found within a second, not after half a minute.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
]


def channel_options(*, health_check: bool = True) -> list[tuple[str, str | int]]:
    """Options of a channel to an upstream: round-robin over its addresses, safe retries, limits."""
    config = {**_SERVICE_CONFIG, **(_HEALTH_CHECK if health_check else {})}
    return [*_CHANNEL_OPTIONS, ("grpc.service_config", json.dumps(config))]


class UpstreamSettings(Record):
    """Where an upstream is, and how it is called and probed."""

    target: str = Field(min_length=1, description="HOST:PORT, or dns:///NAME:PORT for several replicas")
    health_check: bool = Field(
        default=True,
        description="whether the channel watches the health of each address; turn it off behind a proxy, where one "
        "draining replica would answer for all of them",
    )
    failures_to_open: int = Field(default=3, ge=1)
    probe_interval_s: float = Field(default=0.5, gt=0)
    probe_interval_max_s: float = Field(default=4.0, gt=0)
    probe_timeout_s: float = Field(default=2.0, gt=0)


class TierClient:
    """A client of one upstream. Use it as an async context manager, on the event loop that serves."""

    def __init__(self, settings: UpstreamSettings) -> None:
        """Prepare; nothing is connected yet."""
        self.settings = settings

    async def __aenter__(self) -> Self:
        """Open the channel; it connects with the first call."""
        self._channel = grpc.aio.insecure_channel(
            self.settings.target, options=channel_options(health_check=self.settings.health_check)
        )
        self._stub: Any = TierServiceStub(self._channel)  # type: ignore[no-untyped-call] # generated
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close(None)

    async def infer(
        self, request: pb.InferRequest, *, deadline: float, traceparent: str | None
    ) -> pb.InferResponse:
        """Ask for answers and wait until `deadline`, on the clock of `time.monotonic`.

        Raises:
            OffloadError: no answer came.
        """
        metadata = ((TRACEPARENT, traceparent),) if traceparent else None
        timeout_s = max(0.0, deadline - time.monotonic())
        response: pb.InferResponse = await self._call(self._stub.Infer, request, timeout_s, metadata)
        return response

    async def describe(self) -> pb.DescribeResponse:
        """Ask what the upstream serves.

        Raises:
            OffloadError: no answer came.
        """
        timeout_s = self.settings.probe_timeout_s
        response: pb.DescribeResponse = await self._call(
            self._stub.Describe, pb.DescribeRequest(), timeout_s, None
        )
        return response

    async def _call(self, method: Any, request: object, timeout_s: float, metadata: Any) -> Any:
        try:
            response = await method(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error, timeout_s) from error
        # grpc.aio returns None for bytes it cannot decode.
        if response is None:
            raise OffloadError(
                f"{self.settings.target} answered with bytes that are not a message; it is not an Offramp node",
                OffloadReason.REFUSED,
            )
        return response

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
                text = f"{target} refused: {code.name}: {error.details()}"
        return OffloadError(text, reason, blames_request=code is grpc.StatusCode.INVALID_ARGUMENT)
