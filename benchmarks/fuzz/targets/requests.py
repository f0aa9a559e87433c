"""Calls to a cloud node: `InferRequest` of anybody."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from benchmarks.fuzz.targets import Try
from benchmarks.fuzz.targets.images import seeds as images
from benchmarks.fuzz.targets.nodes import BUNDLE, FoundError, node_for, tracebacks
from cloud_node.servicer import TierServicer
from cloud_node.settings import CloudSettings
from offramp.bundle import load_bundle
from offramp.wire.codec import encode_feature
from offramp.wire.v1 import wire_pb2 as pb

MAX_BYTES = 32_768
_FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


def seeds() -> Iterator[bytes]:
    """Calls as an edge makes them."""
    manifest = load_bundle(BUNDLE).manifest
    thetas = [0.5] * (manifest.num_exits - 1)
    given: dict[str, Any] = {"bundle_id": manifest.bundle_id, "thetas": thetas}
    feature = manifest.blocks[0].feature
    assert feature is not None
    values = np.random.default_rng(0).normal(size=(1, *feature.shape)).astype(np.float32)
    for codec in ("float32", "float16"):
        encoded = encode_feature(values, codec)
        yield pb.InferRequest(**given, request_ids=["r"], next_block=2, feature=encoded).SerializeToString()
    photos = list(images())
    yield pb.InferRequest(
        **given, request_ids=["a", "b"], next_block=1, images=photos[:2]
    ).SerializeToString()
    yield pb.InferRequest(**given, request_ids=["a"], next_block=1, pixels=photos[3:4]).SerializeToString()


@asynccontextmanager
async def ready() -> AsyncIterator[Try]:
    """A cloud node's servicer, without the server around it."""
    settings = CloudSettings(bundle=BUNDLE, port=0)
    with tracebacks() as logged:
        async with node_for(settings) as node:
            servicer = TierServicer(node, settings)

            async def once(data: bytes) -> None:
                try:
                    request = pb.InferRequest.FromString(data)
                except DecodeError:
                    return
                context = _Context()
                try:
                    response = await servicer.Infer(request, context)
                except _AbortedError:
                    logged.check()
                    if context.code in _FAULTS:
                        raise FoundError(f"{context.code}: {context.details}") from None
                    return
                assert len(response.answers) == len(request.request_ids)

            yield once


class _AbortedError(Exception):
    pass


class _Context:
    """As gRPC's, for a caller with ten seconds."""

    code: grpc.StatusCode | None = None
    details = ""

    def time_remaining(self) -> float:
        return 10.0

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def cancelled(self) -> bool:
        return False

    def add_done_callback(self, callback: object) -> None: ...

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    async def abort(self, code: grpc.StatusCode, details: str = "", *_: object) -> NoReturn:
        self.code, self.details = code, details
        raise _AbortedError
