"""Makes the service's calls over one channel, with deadlines, safe retries, and our own errors."""

from __future__ import annotations

import asyncio
import time
from typing import Self, TypeVar

import grpc
from google.protobuf.message import DecodeError

from offramp.errors import OffloadError, OffloadReason
from offramp.serving.access.certificates import followed, private_file
from offramp.serving.access.following import Followed
from offramp.serving.offload.channel import UpstreamSettings, opened_channel
from offramp.serving.offload.streams import StreamEndedError, Streams
from offramp.serving.tracing import TRACEPARENT
from offramp.wire.messages import BYTES_OF_CALL, MAX_MESSAGE_BYTES, SERVICE_NAME, told
from offramp.wire.v1 import wire_pb2 as pb

_REASONS = {
    grpc.StatusCode.UNAVAILABLE: OffloadReason.UNREACHABLE,
    grpc.StatusCode.CANCELLED: OffloadReason.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: OffloadReason.LATE,
    grpc.StatusCode.FAILED_PRECONDITION: OffloadReason.MISMATCH,
}

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_MOST_MS = 2**32 - 1
# A node counts the time that it has for a streamed request from when all of it has arrived, which must not take long;
# and what is larger than this gains little.
_LARGEST_ON_STREAM = 32_768
Reply = TypeVar("Reply", pb.InferResponse, pb.DescribeResponse)
_GRACE_S = 5.0  # for calls under way when certificates change


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
        await self._streams.stop()
        await self._channel.close(None)

    @property
    def is_cut_off(self) -> bool:
        """Whether the channel reaches no address of the upstream; it notices without any call."""
        return self._channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE

    def _open(self) -> None:
        self._shown = self._certificates.current if self._certificates else None
        self._channel = opened_channel(self.settings, self._shown, self._max_answer_bytes)
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

        sent: bytes on the socket for each time that this request was sent before; those of now are added.

        Raises:
            OffloadError: no answer came.
        """
        self._follow()
        # What is made again goes in a call of its own, which round-robin takes to another replica.
        if not sent and self._may_stream():
            response = await self._streamed(request, deadline, traceparent, sent)
            if response is not None:
                return response
        request.ClearField("timeout_ms")  # here the call has a deadline
        request.ClearField("traceparent")
        message = request.SerializeToString()
        sent.append(len(message) + BYTES_OF_CALL)
        metadata = [(TRACEPARENT, traceparent)] if traceparent else []
        data = await self._called("Infer", message, deadline - time.monotonic(), metadata)
        return self._parsed(pb.InferResponse, data)

    def _may_stream(self) -> bool:
        return self.takes_streams and self.settings.health_check and self._streams.takes_next()

    async def _streamed(
        self, request: pb.InferRequest, deadline: float, traceparent: str | None, sent: list[int]
    ) -> pb.InferResponse | None:
        """The answer, by a call that carries others, too; None if it has to be asked for in a call of its own."""
        timeout_s = max(0.0, deadline - time.monotonic())
        request.timeout_ms = min(max(1, round(1000 * timeout_s)), _MOST_MS)
        request.traceparent = traceparent or ""
        message = request.SerializeToString()
        if len(message) > _LARGEST_ON_STREAM:
            return None
        try:
            async with asyncio.timeout(timeout_s):
                response = self._parsed(pb.InferResponse, await self._streams.ask(message, sent))
        except StreamEndedError:
            return None
        except TimeoutError as error:
            raise self._translated(grpc.StatusCode.DEADLINE_EXCEEDED, None, timeout_s) from error
        if response.HasField("refusal"):
            code = _CODES.get(response.refusal.status, grpc.StatusCode.UNKNOWN)
            if code is grpc.StatusCode.UNAVAILABLE:
                return None  # gRPC repeats calls that end so
            raise self._translated(code, response.refusal.reason, timeout_s)
        return response

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
