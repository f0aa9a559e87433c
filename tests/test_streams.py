"""Calls that carry one request after another: what ends them, and what happens to the request then; over real gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import psutil
import pytest

from offramp.bundle import Bundle
from offramp.errors import OffloadError
from offramp.serving.offload import streams
from offramp.serving.offload.grpc import GrpcOffloader
from offramp.wire.messages import SERVICE_NAME
from offramp.wire.v1 import wire_pb2 as pb
from tests.nodes import running_cloud
from tests.upstreams import Reply, Upstream, answer, failing, offloader, replying, resume, serving

WELL = replying(answer())
STREAM = f"/{SERVICE_NAME}/InferStream"
MANY = 1_000_000


@pytest.fixture(autouse=True)
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls and what counts as often last longer than any test, so that a slow machine changes nothing."""
    monkeypatch.setattr(streams, "_MAX_AGE_S", 60.0)


class Streaming(Upstream):
    """Knows such calls, and ends each after `most` answers; notes how each ended, and which requests came on them."""

    takes_streams = True
    most = MANY

    def __init__(self, bundle_id: str, reply: Reply = WELL) -> None:
        super().__init__(bundle_id, reply)
        self.ends: list[str] = []
        self.requests: list[pb.InferRequest] = []

    async def InferStream(
        self, requests: AsyncIterator[pb.InferRequest], context: Any
    ) -> AsyncIterator[pb.InferResponse]:
        self.streams += 1
        end, answered = "cancelled", 0
        try:
            while answered < self.most:
                each = await anext(requests, None)
                if each is None:
                    break
                self.requests.append(each)
                yield await self.streamed(each, context)
                answered += 1
            end = "over"
        finally:
            self.ends.append(end)


@asynccontextmanager
async def asked(
    bundle: Bundle, reply: Reply = WELL, *, most: int = MANY, **settings: Any
) -> AsyncIterator[tuple[Streaming, GrpcOffloader]]:
    """An upstream and its client, which has asked once: the next request comes soon enough for a stream."""
    upstream = Streaming(bundle.manifest.bundle_id, WELL)
    upstream.most = most
    async with serving(upstream) as address, offloader(bundle, address, **settings) as client:
        await resume(client)
        upstream.calls, upstream.reply = 0, reply
        yield upstream, client


async def slowly(given: pb.InferRequest, context: Any) -> pb.InferResponse:
    await asyncio.sleep(0.05)
    return await WELL(given, context)


async def test_one_call_carries_request_after_request(tiny_bundle: Bundle) -> None:
    async with asked(tiny_bundle) as (upstream, client):
        for _ in range(20):
            assert (await resume(client)).samples[0].offloaded
        assert (upstream.calls, upstream.streams, len(upstream.requests)) == (20, 1, 20)


async def test_requests_that_come_seldom_go_in_calls_of_their_own(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asked(tiny_bundle) as (upstream, client):
        monkeypatch.setattr(streams, "_MAX_AGE_S", 0.0)
        for _ in range(3):
            await resume(client)
        assert (upstream.calls, upstream.streams) == (3, 0)


async def test_a_request_that_finds_all_of_them_busy_begins_another_up_to_a_limit(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_MOST_BUSY", 4)
    async with asked(tiny_bundle, slowly) as (upstream, client):
        for at_once in (2, 3, 3, 9):
            await asyncio.gather(*(resume(client) for _ in range(at_once)))
        assert upstream.calls == 17 and upstream.streams == 4, "the rest went in calls of their own"


async def test_a_request_without_an_answer_goes_in_a_call_of_its_own(tiny_bundle: Bundle) -> None:
    async with asked(tiny_bundle, most=3) as (upstream, client):
        for _ in range(60):
            assert (await resume(client)).samples[0].offloaded
        assert upstream.calls == 60 and client.state.up
        assert upstream.streams >= 15, "one that has answered says nothing about room"


async def test_where_there_is_no_room_for_them_they_are_tried_less_and_less_often(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_PAUSE_S", 0.02)
    async with asked(tiny_bundle, most=0) as (upstream, client):
        began = time.monotonic()
        async with asyncio.timeout(30):
            while upstream.streams < 5:
                await resume(client)
        assert time.monotonic() >= began + 0.02 + 0.04 + 0.08 + 0.16


async def test_an_old_one_is_ended_in_order_though_nothing_more_is_asked(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asked(tiny_bundle) as (upstream, client):
        monkeypatch.setattr(streams, "_MAX_AGE_S", 0.2)
        for _ in range(5):
            await resume(client)
        async with asyncio.timeout(5):
            while not upstream.ends or upstream.streams > len(upstream.ends):
                await asyncio.sleep(0.01)
        assert set(upstream.ends) == {"over"}


async def test_a_client_that_is_closed_is_connected_to_nothing(tiny_bundle: Bundle) -> None:
    upstream = Streaming(tiny_bundle.manifest.bundle_id, WELL)
    async with serving(upstream) as address:
        async with offloader(tiny_bundle, address) as client:
            await resume(client)
            await asyncio.gather(resume(client), resume(client))
        port = int(address.rpartition(":")[2])
        async with asyncio.timeout(5):
            while any(port in (each.raddr or (0, 0)) for each in psutil.Process().net_connections("tcp")):
                await asyncio.sleep(0.01)
        assert upstream.streams == 2 and client


@pytest.mark.parametrize(
    ("code", "again"), [(grpc.StatusCode.INVALID_ARGUMENT, 0), (grpc.StatusCode.RESOURCE_EXHAUSTED, 2)]
)
async def test_a_refusal_is_an_answer_and_ends_no_call(
    tiny_bundle: Bundle, code: grpc.StatusCode, again: int
) -> None:
    async with asked(tiny_bundle) as (upstream, client):
        await resume(client)
        upstream.reply, upstream.calls = failing(code), 0
        with pytest.raises(OffloadError, match=f"refused: {code.name}: on purpose") as caught:
            await resume(client)
        assert caught.value.blames_request is (code is grpc.StatusCode.INVALID_ARGUMENT)
        assert upstream.calls == 1 + again
        upstream.reply = WELL
        for _ in range(3):
            await resume(client)
        assert upstream.streams == 1 and not upstream.ends


async def test_replicas_that_refuse_now_and_then_both_stay_in_use(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_MAX_AGE_S", 0.1)

    def often_full() -> Reply:
        asked = 0

        async def reply(given: pb.InferRequest, context: Any) -> pb.InferResponse:
            nonlocal asked
            asked += 1
            if asked % 5 == 0:
                return await failing(grpc.StatusCode.RESOURCE_EXHAUSTED)(given, context)
            await asyncio.sleep(0.005)
            return await WELL(given, context)

        return reply

    one, other = (Streaming(tiny_bundle.manifest.bundle_id, often_full()) for _ in range(2))
    async with (
        serving(one) as here,
        serving(other) as there,
        offloader(tiny_bundle, f"ipv4:{here},{there}") as client,
    ):

        async def ask_on(until: float) -> None:
            while time.monotonic() < until:
                await asyncio.gather(resume(client), return_exceptions=True)

        await asyncio.gather(*(ask_on(time.monotonic() + 1.0) for _ in range(4)))
        assert one.streams and other.streams
        for _ in range(3):
            before = one.calls, other.calls
            await asyncio.gather(*(ask_on(time.monotonic() + 1.0) for _ in range(4)))
            assert one.calls > before[0] + 10 and other.calls > before[1] + 10


async def test_an_upstream_that_does_not_know_them_after_all_is_asked_by_single_calls(
    tiny_bundle: Bundle,
) -> None:
    class Older(Upstream):
        takes_streams = True

        async def InferStream(self, requests: Any, context: Any) -> AsyncIterator[pb.InferResponse]:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            yield pb.InferResponse()

    upstream = Older(tiny_bundle.manifest.bundle_id, WELL)
    async with serving(upstream) as address, offloader(tiny_bundle, address) as client:
        for _ in range(3):
            assert (await resume(client)).samples[0].offloaded


async def test_behind_a_proxy_each_request_is_a_call(tiny_bundle: Bundle) -> None:
    async with asked(tiny_bundle, health_check=False) as (upstream, client):
        await resume(client)
        assert (upstream.calls, upstream.streams) == (1, 0)


async def test_a_large_request_is_a_call(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offramp.serving.offload.client._LARGEST_ON_STREAM", 100)
    async with asked(tiny_bundle) as (upstream, client):
        await resume(client)
        assert (upstream.calls, upstream.streams) == (1, 0)


async def test_the_upstream_is_told_how_long_its_answer_is_waited_for(tiny_bundle: Bundle) -> None:
    alone: list[int] = []

    async def noting(given: pb.InferRequest, context: Any) -> pb.InferResponse:
        alone.append(given.timeout_ms)
        return await WELL(given, context)

    async with asked(tiny_bundle) as (upstream, client):
        await resume(client, timeout_s=0.75)
        assert 500 < upstream.requests[0].timeout_ms <= 750
    async with asked(tiny_bundle, noting, most=0) as (upstream, client):
        await resume(client)
        assert upstream.streams == 1 and alone == [0], "a call of its own has a deadline"


async def test_no_request_is_lost_where_a_node_ends_them_all_the_time(tiny_bundle: Bundle) -> None:
    async with (
        running_cloud(tiny_bundle, message_timeout_s=0.2) as address,
        offloader(tiny_bundle, address) as client,
    ):
        pauses = (0.0, 0.196, 0.198, 0.199, 0.2, 0.202)
        for number in range(36):
            assert (await resume(client)).samples[0].offloaded
            await asyncio.sleep(pauses[number % len(pauses)])
