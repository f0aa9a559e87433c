"""Calls to a cloud node, over gRPC and without an edge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import grpc

from offramp.wire.messages import SERVICE_NAME
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceStub
from tests.chaos.nodes import BUNDLE

# Each channel has connections of its own, as each edge process has.
OWN = (("grpc.use_local_subchannel_pool", 1),)


def request(images: Sequence[bytes]) -> pb.InferRequest:
    """A call with photos, for the bundle of the scenarios."""
    manifest = json.loads((BUNDLE / "bundle.json").read_text(encoding="utf-8"))
    return pb.InferRequest(
        bundle_id=manifest["bundle_id"],
        request_ids=[f"r{number}" for number in range(len(images))],
        thetas=[1.0] * (len(manifest["blocks"]) - 1),
        next_block=1,
        images=images,
    )


async def infer(channel: grpc.aio.Channel, images: Sequence[bytes], *, timeout_s: float) -> pb.InferResponse:
    """Have photos answered over a channel."""
    stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
    response: pb.InferResponse = await stub.Infer(request(images), timeout=timeout_s)
    return response


async def infer_images(address: str, images: Sequence[bytes], *, timeout_s: float) -> pb.InferResponse:
    """The same over a channel of its own."""
    async with grpc.aio.insecure_channel(address, options=OWN) as channel:
        return await infer(channel, images, timeout_s=timeout_s)


def _as_it_is(message: bytes) -> bytes:
    return message


async def raw(address: str, method: str, message: bytes) -> tuple[grpc.StatusCode, str]:
    """Send bytes as a message; the status and its text."""
    async with grpc.aio.insecure_channel(address, options=OWN) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE_NAME}/{method}", _as_it_is, _as_it_is)
        try:
            await call(message, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        return grpc.StatusCode.OK, ""
