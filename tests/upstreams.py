"""Upstreams that answer as a test tells them to, over real gRPC, and the client that asks them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as aio_health  # type: ignore[attr-defined] # its stubs lack it

from offramp.bundle import Bundle
from offramp.bundle.manifest import Payload
from offramp.engine.tier import Handover
from offramp.serving.answers import Answers
from offramp.serving.call import Call, Sample
from offramp.serving.offload.channel import UpstreamSettings
from offramp.serving.offload.grpc import GrpcOffloader
from offramp.wire.messages import SERVICE_NAME
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceServicer, add_TierServiceServicer_to_server

Reply = Callable[[pb.InferRequest, Any], Awaitable[pb.InferResponse]]


class Upstream(TierServiceServicer):
    """An upstream that answers as a test tells it to, and counts requests, and calls that stay open."""

    takes_streams = False  # so each request comes in a call of its own

    def __init__(self, bundle_id: str, reply: Reply) -> None:
        self.bundle_id = bundle_id
        self.calls = 0
        self.streams = 0
        self.codecs: list[pb.Codec] = [pb.CODEC_FLOAT32]
        self.described: dict[str, int] = {}
        self.reply = reply

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:
        fields: dict[str, Any] = {
            "first_block": 2,
            "last_block": 3,
            "streams": self.takes_streams,
            **self.described,
        }
        return pb.DescribeResponse(bundle_id=self.bundle_id, tier="cloud", codecs=self.codecs, **fields)

    async def Infer(self, request: pb.InferRequest, context: Any) -> pb.InferResponse:
        self.calls += 1
        return await self.reply(request, context)

    async def InferStream(
        self, requests: AsyncIterator[pb.InferRequest], context: Any
    ) -> AsyncIterator[pb.InferResponse]:
        self.streams += 1
        async for request in requests:
            yield await self.streamed(request, context)

    async def streamed(self, request: pb.InferRequest, context: Any) -> pb.InferResponse:
        """What is said to one request of many: a refusal, where Infer would end its call."""
        try:
            return await self.Infer(request, _Streamed(context))
        except _RefusedError as refused:
            return pb.InferResponse(refusal=refused.args[0])


class _RefusedError(Exception):
    pass


class _Streamed:
    """The context of one request of many, which ends the call for that request alone."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def time_remaining(self) -> float | None:
        remaining: float | None = self._context.time_remaining()
        return remaining

    async def abort(self, code: grpc.StatusCode, details: str = "") -> None:
        raise _RefusedError(pb.Refusal(status=code.value[0], reason=details))


@asynccontextmanager
async def draining(upstream: Upstream) -> AsyncIterator[str]:
    """An upstream that answers, but whose health says it is about to leave."""
    said = aio_health.HealthServicer()
    await said.set(SERVICE_NAME, health_pb2.HealthCheckResponse.NOT_SERVING)
    async with serving(upstream, said) as address:
        yield address


@asynccontextmanager
async def serving(upstream: Upstream, health: Any = None) -> AsyncIterator[str]:
    """A server of its own for an upstream; yields HOST:PORT."""
    server = grpc.aio.server()
    if health is not None:
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
    add_TierServiceServicer_to_server(upstream, server)  # type: ignore[no-untyped-call] # generated
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def offloader(bundle: Bundle, target: str, payload: Payload = "exact", **settings: Any) -> GrpcOffloader:
    """A client that hands over at block 2, and probes every 50 ms; a slow machine has time to answer."""
    return GrpcOffloader(
        UpstreamSettings(target=target, **{"probe_interval_s": 0.05, "probe_timeout_s": 20.0, **settings}),
        bundle.manifest,
        tier="edge",
        split_point=2,
        codec="float32",
        payload=payload,
    )


async def resume(client: GrpcOffloader, timeout_s: float = 20.0) -> Answers:
    """Have a client finish one sample."""
    handover = Handover(2, np.ones((8, 4, 4), dtype=np.float32))
    call = Call(
        samples=[Sample("r", handover=handover)],
        thetas=(1.0, 1.0),
        first_block=2,
        deadline=time.monotonic() + timeout_s,
    )
    return await client.resume(call)


def answer(**changes: Any) -> pb.Answer:
    """An answer of the last exit, as the tiny bundle gives it, but for `changes`."""
    probabilities = np.full(4, 0.25, dtype="<f4").tobytes()
    fields = {
        "request_id": "r",
        "probabilities": probabilities,
        "confidence": 0.25,
        "exit_number": 3,
        "tier": "cloud",
    }
    return pb.Answer(**{**fields, **changes})


def replying(*answers: pb.Answer) -> Reply:
    """Say this, whatever is asked."""

    async def reply(request: pb.InferRequest, context: Any) -> pb.InferResponse:
        return pb.InferResponse(answers=answers)

    return reply


def failing(code: grpc.StatusCode) -> Reply:
    """Refuse every call with this status."""

    async def reply(request: pb.InferRequest, context: Any) -> pb.InferResponse:
        await context.abort(code, "on purpose")
        raise AssertionError("abort raises")

    return reply


async def never(request: pb.InferRequest, context: Any) -> pb.InferResponse:
    """Do not answer within the time of any test."""
    await asyncio.sleep(30)
    raise AssertionError("nobody waits this long")
