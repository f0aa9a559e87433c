"""Answers of a cloud node that may be anybody, over real gRPC: to `Infer`, and to `Describe`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import grpc
import numpy as np

from benchmarks.fuzz.targets import Try
from benchmarks.fuzz.targets.nodes import BUNDLE, FoundError, tracebacks
from offramp.bundle import Manifest, load_bundle
from offramp.engine.tier import Handover
from offramp.errors import OfframpError
from offramp.serving.answers import Answers
from offramp.serving.call import Call, Sample
from offramp.serving.offload.channel import UpstreamSettings
from offramp.serving.offload.grpc import GrpcOffloader
from offramp.wire.messages import SERVICE_NAME
from offramp.wire.v1 import wire_pb2 as pb

MAX_BYTES = 4096
_LONGEST_NAME, _LONGEST_REASON, _MOST_TIMES = 200, 2000, 64
_OFTEN = 1_000_000  # failures before an upstream is left alone


def seeds() -> Iterator[bytes]:
    """The first byte chooses the call; then the message."""
    manifest = _manifest()
    probabilities = np.full(len(manifest.labels), 1 / len(manifest.labels), "<f4").tobytes()
    fields: dict[str, Any] = {"request_id": "r", "probabilities": probabilities, "tier": "cloud"}
    times = [pb.TierTime(tier="cloud", queue_ms=0.5, compute_ms=2.5)]
    sure = pb.Answer(**fields, confidence=0.9, exit_number=2)
    unsure = pb.Answer(
        **fields, confidence=0.4, exit_number=2, degraded_reason="gone", passed=[0.4], unfamiliar=True
    )
    for answer in (sure, unsure):
        yield b"\0" + pb.InferResponse(answers=[answer], times=times).SerializeToString()
    yield b"\1" + _described().SerializeToString()


def _described() -> pb.DescribeResponse:
    manifest = _manifest()
    return pb.DescribeResponse(
        bundle_id=manifest.bundle_id, tier="cloud", first_block=1, last_block=len(manifest.blocks),
        codecs=[pb.CODEC_FLOAT32, pb.CODEC_FLOAT16], max_pixels=25_000_000, max_samples=1024, takes_pixels=True,
    )  # fmt: skip


class _Says:
    """A server that answers with bytes."""

    def __init__(self) -> None:
        self.described = _described().SerializeToString()
        self.inferred = b""

    async def describe(self, request: bytes, context: Any) -> bytes:
        return self.described

    async def infer(self, request: bytes, context: Any) -> bytes:
        return self.inferred

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = grpc.aio.server()
        methods = {"Describe": self.describe, "Infer": self.infer}
        handlers = {name: grpc.unary_unary_rpc_method_handler(each) for name, each in methods.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)


@asynccontextmanager
async def ready() -> AsyncIterator[Try]:
    """An edge's client, connected to a server that says what the input says."""
    says = _Says()
    with tracebacks() as logged:
        async with says.serving() as address, _client(address) as client:

            async def once(data: bytes) -> None:
                if (data or b"\0")[0] % 8 == 1:
                    await _connect(says, address, data[1:])
                else:
                    says.inferred = data[1:]
                    await _ask(client)
                logged.check()

            yield once


@cache
def _manifest() -> Manifest:
    return load_bundle(BUNDLE).manifest


def _client(address: str) -> GrpcOffloader:
    settings = UpstreamSettings(target=address, health_check=False, failures_to_open=_OFTEN)
    return GrpcOffloader(settings, _manifest(), tier="edge", split_point=2, codec="float32")


async def _connect(says: _Says, address: str, described: bytes) -> None:
    usual, says.described = says.described, described
    try:
        async with _client(address) as client:
            await asyncio.sleep(0)
            assert client.accepts is not None
    except OfframpError:
        return
    finally:
        says.described = usual


@cache
def _handover() -> Handover:
    feature = _manifest().blocks[0].feature
    assert feature is not None
    return Handover(2, np.ones(feature.shape, dtype=np.float32))


async def _ask(client: GrpcOffloader) -> None:
    sample = Sample("r", handover=_handover())
    call = Call(samples=[sample], thetas=(1.0,), first_block=2, deadline=time.monotonic() + 10)
    try:
        _check(await client.resume(call))
    except OfframpError:
        return


def _check(answers: Answers) -> None:
    """What an edge would hand on must be of its schema, and small."""
    numbers = [number for each in answers.times for number in (each.queue_ms, each.compute_ms)]
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise FoundError(f"times of {numbers[:4]}")
    if len(answers.times) > _MOST_TIMES:
        raise FoundError(f"{len(answers.times)} times")
    names = [*(each.tier for each in answers.times), *(each.tier for each in answers.samples)]
    if max(map(len, names), default=0) > _LONGEST_NAME:
        raise FoundError("a long name of a tier")
    for sample in answers.samples:
        probabilities = sample.answer.probabilities
        if not (np.all(probabilities >= 0) and abs(float(probabilities.sum()) - 1) < 1e-2):
            raise FoundError(f"probabilities of {probabilities[:4]}")
        if len(sample.degraded_reason or "") > _LONGEST_REASON:
            raise FoundError("a long reason")
