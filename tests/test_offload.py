"""The offload client against upstreams that are late, gone, foreign or talk nonsense; over real gRPC."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as aio_health  # type: ignore[attr-defined] # its stubs lack it

from offramp.bundle import Bundle
from offramp.engine.tier import Handover
from offramp.errors import BundleMismatchError, ConfigError, OffloadError, OffloadReason
from offramp.serving.answers import Answers
from offramp.serving.call import Call, Sample
from offramp.serving.link import Link
from offramp.serving.offload import Accepts
from offramp.serving.offload.breaker import Breaker
from offramp.serving.offload.client import UpstreamSettings
from offramp.serving.offload.grpc import GrpcOffloader
from offramp.wire.messages import SERVICE_NAME
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceServicer, add_TierServiceServicer_to_server
from tests.nodes import closed_port_address, running_cloud

Reply = Callable[[pb.InferRequest, Any], Awaitable[pb.InferResponse]]


class Upstream(TierServiceServicer):
    """An upstream that answers as a test tells it to, and counts the calls."""

    def __init__(self, bundle_id: str, reply: Reply) -> None:
        self.bundle_id = bundle_id
        self.calls = 0
        self.codecs: list[pb.Codec] = [pb.CODEC_FLOAT32]
        self.described: dict[str, int] = {}
        self._reply = reply

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:
        fields: dict[str, Any] = {"first_block": 2, "last_block": 3, **self.described}
        return pb.DescribeResponse(bundle_id=self.bundle_id, tier="cloud", codecs=self.codecs, **fields)

    async def Infer(self, request: pb.InferRequest, context: Any) -> pb.InferResponse:
        self.calls += 1
        return await self._reply(request, context)


@asynccontextmanager
async def draining(upstream: Upstream) -> AsyncIterator[str]:
    """An upstream that answers, but whose health says it is about to leave."""
    said = aio_health.HealthServicer()
    await said.set(SERVICE_NAME, health_pb2.HealthCheckResponse.NOT_SERVING)
    async with serving(upstream, said) as address:
        yield address


@asynccontextmanager
async def serving(upstream: Upstream, health: Any = None) -> AsyncIterator[str]:
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


def offloader(bundle: Bundle, target: str, **settings: Any) -> GrpcOffloader:
    return GrpcOffloader(
        UpstreamSettings(target=target, probe_interval_s=0.05, **settings),
        bundle.manifest,
        tier="edge",
        split_point=2,
        codec="float32",
    )


async def resume(client: GrpcOffloader, timeout_s: float = 2.0) -> Answers:
    handover = Handover(2, np.ones((8, 4, 4), dtype=np.float32))
    call = Call(
        samples=[Sample("r", handover=handover)],
        thetas=(1.0, 1.0),
        first_block=2,
        deadline=time.monotonic() + timeout_s,
    )
    return await client.resume(call)


async def check_refused(bundle: Bundle, reply: Reply, says: str) -> OffloadError:
    upstream = Upstream(bundle.manifest.bundle_id, reply)
    async with serving(upstream) as address, offloader(bundle, address) as client:
        with pytest.raises(OffloadError, match=says) as caught:
            await resume(client)
    assert caught.value.reason is OffloadReason.REFUSED
    return caught.value


def answer(**changes: Any) -> pb.Answer:
    probabilities = np.full(4, 0.25, dtype="<f4").tobytes()
    fields = {"request_id": "r", "probabilities": probabilities, "confidence": 0.25, "exit_number": 3}
    return pb.Answer(**{**fields, **changes})


def replying(*answers: pb.Answer) -> Reply:
    async def reply(request: pb.InferRequest, context: Any) -> pb.InferResponse:
        return pb.InferResponse(answers=answers)

    return reply


def failing(code: grpc.StatusCode) -> Reply:
    async def reply(request: pb.InferRequest, context: Any) -> pb.InferResponse:
        await context.abort(code, "on purpose")
        raise AssertionError("abort raises")

    return reply


async def never(request: pb.InferRequest, context: Any) -> pb.InferResponse:
    await asyncio.sleep(30)
    raise AssertionError("nobody waits this long")


async def test_a_silent_cloud_is_an_error_and_not_an_answer(tiny_bundle: Bundle) -> None:
    upstream = Upstream(tiny_bundle.manifest.bundle_id, never)
    async with serving(upstream) as address, offloader(tiny_bundle, address) as client:
        with pytest.raises(OffloadError, match=r"did not answer within [0-9]+ ms") as caught:
            await resume(client, timeout_s=0.05)
    assert caught.value.reason is OffloadReason.LATE


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([], "answered 0 samples"),
        ([answer(), answer()], "answered 2 samples"),
        ([answer(request_id="someone-else")], "someone-else"),
        ([answer(probabilities=b"abc")], "3 bytes of probabilities"),
        ([answer(probabilities=b"\xff" * 16)], "probabilities"),
        ([answer(exit_number=9)], "exit 9"),
        ([answer(exit_number=0)], "exit 0"),
        ([answer(confidence=float("nan"))], "confidence nan"),
        ([answer(confidence=1.5)], "confidence 1.5"),
    ],
)
async def test_nonsense_is_not_taken_for_an_answer(
    tiny_bundle: Bundle, answers: list[pb.Answer], says: str
) -> None:
    await check_refused(tiny_bundle, replying(*answers), says)


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT]
)
async def test_a_refusal_is_reported_with_its_status(tiny_bundle: Bundle, code: grpc.StatusCode) -> None:
    error = await check_refused(tiny_bundle, failing(code), code.name)
    assert error.blames_request is (code is grpc.StatusCode.INVALID_ARGUMENT)


async def test_only_an_unavailable_upstream_is_asked_again(tiny_bundle: Bundle) -> None:
    for code, calls in ((grpc.StatusCode.UNAVAILABLE, 3), (grpc.StatusCode.INTERNAL, 1)):
        upstream = Upstream(tiny_bundle.manifest.bundle_id, failing(code))
        async with serving(upstream) as address, offloader(tiny_bundle, address) as client:
            with pytest.raises(OffloadError):
                await resume(client)
        assert upstream.calls == calls


async def test_after_three_failures_a_hung_cloud_is_left_alone_until_a_probe_is_answered(
    tiny_bundle: Bundle,
) -> None:
    upstream = Upstream(tiny_bundle.manifest.bundle_id, never)
    async with (
        serving(upstream) as address,
        offloader(tiny_bundle, address, probe_timeout_s=0.5) as client,
    ):
        for _ in range(3):
            with pytest.raises(OffloadError):
                await resume(client, timeout_s=0.02)
        assert not client.state.up and "did not answer" in (client.state.reason or "")
        calls = upstream.calls
        with pytest.raises(OffloadError):
            await resume(client, timeout_s=0.02)
        assert upstream.calls == calls, "an open breaker must not ask"
        async with asyncio.timeout(5):
            while not client.state.up:
                await asyncio.sleep(0.01)


async def test_another_bundle_is_refused_at_start_with_both_ids_named(tiny_bundle: Bundle) -> None:
    async with serving(Upstream("other-1", never)) as address:
        with pytest.raises(BundleMismatchError, match="other-1") as caught:
            async with offloader(tiny_bundle, address):
                pass
    assert tiny_bundle.manifest.bundle_id in str(caught.value)


async def test_another_bundle_deployed_later_is_refused_per_call(tiny_bundle: Bundle) -> None:
    upstream = Upstream(tiny_bundle.manifest.bundle_id, failing(grpc.StatusCode.FAILED_PRECONDITION))
    async with serving(upstream) as address, offloader(tiny_bundle, address) as client:
        upstream.bundle_id = "other-2"
        with pytest.raises(OffloadError) as caught:
            await resume(client)
        assert caught.value.reason is OffloadReason.MISMATCH
        async with asyncio.timeout(5):
            while "other-2" not in (client.state.reason or ""):
                await asyncio.sleep(0.01)
        upstream.bundle_id = tiny_bundle.manifest.bundle_id
        async with asyncio.timeout(5):
            while not client.state.up:
                await asyncio.sleep(0.01)


async def test_an_upstream_that_does_not_run_the_split_point_is_refused_at_start(tiny_bundle: Bundle) -> None:
    async with running_cloud(tiny_bundle, blocks="3-3") as address:
        with pytest.raises(ConfigError, match=r"hands over at block 2, but cloud .* runs blocks 3 to 3"):
            async with offloader(tiny_bundle, address):
                pass


async def test_an_upstream_that_does_not_know_the_codec_is_refused_at_start(tiny_bundle: Bundle) -> None:
    upstream = Upstream(tiny_bundle.manifest.bundle_id, never)
    upstream.codecs = [pb.CODEC_FLOAT16]
    async with serving(upstream) as address:
        with pytest.raises(ConfigError, match="does not decode"):
            async with offloader(tiny_bundle, address):
                pass


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({}, Accepts(images=False, max_pixels=25_000_000, max_samples=sys.maxsize)),
        (
            {"first_block": 1, "max_pixels": 9_000, "max_samples": 7},
            Accepts(images=True, max_pixels=9_000, max_samples=7),
        ),
    ],
    ids=["an older one says nothing", "a newer one does"],
)
async def test_what_an_upstream_accepts_is_what_it_says_or_the_default(
    tiny_bundle: Bundle, described: dict[str, int], expected: Accepts
) -> None:
    upstream = Upstream(tiny_bundle.manifest.bundle_id, never)
    upstream.described = described
    async with serving(upstream) as address, offloader(tiny_bundle, address) as client:
        assert client.accepts == expected


@pytest.mark.parametrize("health_check", [True, False])
async def test_an_address_that_says_it_drains_is_left_unless_told_not_to_look(
    tiny_bundle: Bundle, health_check: bool
) -> None:
    upstream = Upstream(tiny_bundle.manifest.bundle_id, replying(answer()))
    async with (
        draining(upstream) as address,
        offloader(tiny_bundle, address, health_check=health_check) as client,
    ):
        assert client.state.up is not health_check
        if not health_check:
            await resume(client)


async def test_bytes_sent_in_vain_are_counted(tiny_bundle: Bundle) -> None:
    upstream = Upstream(tiny_bundle.manifest.bundle_id, never)
    async with serving(upstream) as address, offloader(tiny_bundle, address) as client:
        with pytest.raises(OffloadError) as caught:
            await resume(client, timeout_s=0.05)
    assert caught.value.uplink_bytes > 4 * 8 * 4 * 4, "the feature alone, as float32"


async def test_nobody_at_the_address_is_no_error_at_start(tiny_bundle: Bundle) -> None:
    async with offloader(tiny_bundle, closed_port_address()) as client:
        assert not client.state.up
        with pytest.raises(OffloadError) as caught:
            await resume(client)
    assert caught.value.reason is OffloadReason.UNREACHABLE


async def test_the_bytes_are_those_on_the_socket(tiny_bundle: Bundle) -> None:
    async def reply(request: pb.InferRequest, context: Any) -> pb.InferResponse:
        return pb.InferResponse(answers=[answer()])

    async with (
        serving(Upstream(tiny_bundle.manifest.bundle_id, reply)) as address,
        Link(address) as link,
        offloader(tiny_bundle, f"127.0.0.1:{link.port}") as client,
    ):
        for _ in range(10):  # headers are written out once, and then only named
            await resume(client)
        before = link.up_bytes
        accounted = [(await resume(client)).samples[0].uplink_bytes for _ in range(50)]
        counted = link.up_bytes - before
    assert counted == pytest.approx(sum(accounted), rel=0.02)


async def test_a_reply_that_is_no_message_does_not_end_the_probing(tiny_bundle: Bundle) -> None:
    replies = iter([b"\xff\xff rubbish"] * 3)
    good = pb.DescribeResponse(
        bundle_id=tiny_bundle.manifest.bundle_id,
        tier="c",
        first_block=2,
        last_block=3,
        codecs=[pb.CODEC_FLOAT32],
    )

    async def describe(request: bytes, context: Any) -> bytes:
        return next(replies, good.SerializeToString())

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(describe)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(SERVICE_NAME, {"Describe": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with offloader(tiny_bundle, f"127.0.0.1:{port}") as client:
        assert "no message" in (client.state.reason or "")
        async with asyncio.timeout(5):
            while not client.state.up:
                await asyncio.sleep(0.01)
    await server.stop(None)


def error(reason: OffloadReason) -> OffloadError:
    return OffloadError("on purpose", reason)


def test_a_breaker_opens_after_so_many_failures_in_a_row() -> None:
    breaker = Breaker(failures=2)
    assert not breaker.failed(error(OffloadReason.LATE))
    breaker.succeeded()
    assert not breaker.failed(error(OffloadReason.LATE))
    assert breaker.failed(error(OffloadReason.UNREACHABLE))
    assert breaker.cause is not None


def test_after_a_loss_one_failure_opens_a_breaker_again_until_a_call_succeeds() -> None:
    breaker = Breaker(failures=3)
    breaker.hold_open(error(OffloadReason.LATE))
    breaker.probed()
    assert breaker.cause is None and breaker.failed(error(OffloadReason.LATE))
    breaker.probed()
    breaker.succeeded()
    assert not breaker.failed(error(OffloadReason.LATE))


def test_a_refusal_does_not_open_a_breaker() -> None:
    breaker = Breaker(failures=1)
    assert not breaker.failed(error(OffloadReason.REFUSED))
    assert breaker.cause is None


def test_one_mismatch_opens_a_breaker() -> None:
    assert Breaker(failures=5).failed(error(OffloadReason.MISMATCH))
