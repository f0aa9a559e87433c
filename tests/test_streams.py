"""Calls that stay open: what they carry, what ends them, and what happens to the request then; over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from cloud_node.room import Limits, Room
from cloud_node.server import CloudServer
from cloud_node.settings import CloudSettings
from offramp.bundle import Bundle
from offramp.errors import OffloadError
from offramp.serving.access.keys import KeptKeys, Right, new_key
from offramp.serving.offload import streams
from offramp.serving.offload.grpc import GrpcOffloader
from offramp.serving.running import running_node
from offramp.wire.messages import SERVICE_NAME
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceStub
from tests.nodes import running_cloud
from tests.test_cloud import request
from tests.test_cloud_door import Arriving, refusal
from tests.upstreams import Reply, Upstream, answer, failing, offloader, replying, resume, serving

WELL = replying(answer())
STREAM = f"/{SERVICE_NAME}/InferStream"


class Streaming(Upstream):
    """Knows calls that stay open, and ends each after `most` answers; notes how each ended."""

    takes_streams = True
    most = 1_000_000

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
            async for each in requests:
                if answered == self.most:
                    break
                self.requests.append(each)
                yield await self.Infer(each, context)
                answered += 1
            end = "over"
        finally:
            self.ends.append(end)


@asynccontextmanager
async def asked(
    bundle: Bundle, reply: Reply = WELL, *, most: int = 1_000_000, **settings: Any
) -> AsyncIterator[tuple[Streaming, GrpcOffloader]]:
    upstream = Streaming(bundle.manifest.bundle_id, reply)
    upstream.most = most
    async with serving(upstream) as address, offloader(bundle, address, **settings) as client:
        yield upstream, client


async def slowly(given: pb.InferRequest, context: Any) -> pb.InferResponse:
    await asyncio.sleep(0.05)
    return await WELL(given, context)


async def test_one_call_carries_request_after_request(tiny_bundle: Bundle) -> None:
    async with asked(tiny_bundle) as (upstream, client):
        for _ in range(20):
            assert (await resume(client)).samples[0].offloaded
        assert (upstream.calls, upstream.streams) == (20, 1)


async def test_a_request_that_finds_all_of_them_busy_begins_another_up_to_a_limit(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_MOST_BUSY", 4)
    async with asked(tiny_bundle, slowly) as (upstream, client):
        for at_once in (2, 3, 3, 9):
            await asyncio.gather(*(resume(client) for _ in range(at_once)))
        assert upstream.calls == 17 and upstream.streams == 4, "the rest went in calls of their own"


async def test_a_request_that_is_not_answered_goes_in_a_call_of_its_own(tiny_bundle: Bundle) -> None:
    async with asked(tiny_bundle, most=3) as (upstream, client):
        for _ in range(12):
            assert (await resume(client)).samples[0].offloaded
        assert (upstream.calls, upstream.streams, upstream.ends) == (12, 1, ["over"])
        assert client.state.up


async def test_after_a_while_they_are_tried_again(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_PAUSE_S", 0.0)
    async with asked(tiny_bundle, most=3) as (upstream, client):
        for _ in range(12):
            await resume(client)
        assert upstream.calls == 12 and upstream.streams == 3


async def test_an_old_one_is_ended_in_order_and_another_begun(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_MAX_AGE_S", 0.0)
    async with asked(tiny_bundle) as (upstream, client):
        for _ in range(3):
            await resume(client)
        async with asyncio.timeout(5):
            while len(upstream.ends) < 3:
                await asyncio.sleep(0.01)
        assert upstream.streams == 3 and upstream.ends == ["over"] * 3


async def test_a_refusal_ends_its_own_call_only(tiny_bundle: Bundle) -> None:
    async with asked(tiny_bundle) as (upstream, client):
        await resume(client)
        upstream.reply = failing(grpc.StatusCode.INVALID_ARGUMENT)
        with pytest.raises(OffloadError, match="refused: INVALID_ARGUMENT: on purpose") as caught:
            await resume(client)
        assert caught.value.blames_request
        upstream.reply = WELL
        for _ in range(3):
            await resume(client)
        assert upstream.streams == 2, "a refusal says nothing about calls that stay open"


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


async def test_the_upstream_is_told_how_long_its_answer_is_waited_for(tiny_bundle: Bundle) -> None:
    async with asked(tiny_bundle) as (upstream, client):
        await resume(client, timeout_s=0.75)
        assert 500 < upstream.requests[0].timeout_ms <= 750


async def test_a_node_drops_a_streamed_request_whose_time_is_over(tiny_bundle: Bundle) -> None:
    async with running_cloud(tiny_bundle) as address, grpc.aio.insecure_channel(address) as channel:
        stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
        call = stub.InferStream()
        await call.write(request(tiny_bundle, timeout_ms=5000))
        first = await call.read()
        assert [each.request_id for each in first.answers] == ["a", "b"]
        await call.write(request(tiny_bundle, bundle_id="other"))
        code, says = await refusal(call.read())
        assert code is grpc.StatusCode.FAILED_PRECONDITION and "other" in says


@pytest.mark.parametrize("message", [b"\xff\xff\xff rubbish", b""], ids=["rubbish", "empty"])
async def test_what_is_no_request_ends_the_call_with_a_reason(tiny_bundle: Bundle, message: bytes) -> None:
    async with running_cloud(tiny_bundle) as address, grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.stream_stream(STREAM, None, None)(None)
        await call.write(message)
        code, says = await refusal(call.read())
        assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
        assert "not a message" in says or "deploy the same bundle" in says


async def test_a_node_that_stops_ends_them_and_finishes_what_they_carry(tiny_bundle: Bundle) -> None:
    settings = CloudSettings(bundle=tiny_bundle.directory, port=0, blocks="2-3", drain_s=0.3)
    async with running_node(settings, tiny_bundle, (2, 3)) as node:
        server = CloudServer(node, settings)
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
            idle, busy = stub.InferStream(), stub.InferStream()
            for call in (idle, busy):
                await call.write(request(tiny_bundle))
                assert (await call.read()).answers
            draining = asyncio.create_task(server.drain())
            async with asyncio.timeout(0.25):
                assert not isinstance(await idle.read(), pb.InferResponse)
                assert await idle.code() is grpc.StatusCode.OK
            async with asyncio.timeout(2):
                await draining


async def test_a_key_that_is_taken_away_ends_the_calls_that_showed_it(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    shown, kept = new_key("edge", [Right.ASK])
    file.write_text(KeptKeys(keys=(kept,)).model_dump_json())
    file.chmod(0o600)
    async with (
        running_cloud(tiny_bundle, keys=file) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
        call = stub.InferStream(metadata=[("authorization", f"Bearer {shown}")])
        await call.write(request(tiny_bundle))
        assert (await call.read()).answers
        file.write_text(KeptKeys().model_dump_json())

        async def ask_on() -> None:
            while True:
                await call.write(request(tiny_bundle))
                await call.read()
                await asyncio.sleep(0.05)

        async with asyncio.timeout(10):
            assert (await refusal(ask_on()))[0] is grpc.StatusCode.UNAUTHENTICATED


def room(**changes: Any) -> Room:
    limits = {"message_bytes": 100, "buffered_bytes": 800, "arriving": 8, "streams": 8, "arrival_s": 5}
    return Room(Limits(**{**limits, **changes}))


async def test_they_take_half_of_the_room_and_a_quarter_for_one_host() -> None:
    space = room()
    waiting = [asyncio.create_task(space.next(Arriving(f"10.0.0.{number // 3}"))) for number in range(9)]
    await asyncio.sleep(0)
    assert [task.done() for task in waiting] == [False, False, True] * 2 + [True] * 3
    assert space.held_bytes == 400
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert space.held_bytes == 0


async def test_they_make_room_for_a_call_that_would_have_to_wait() -> None:
    space = room(buffered_bytes=400)
    idle = asyncio.create_task(space.next(Arriving("10.0.0.1")))
    until = [Arriving(f"10.0.0.{number}") for number in range(2, 5)]
    held = [asyncio.create_task(space.arrived(each, has_place=False)) for each in until]
    await asyncio.sleep(0)
    assert space.held_bytes == 400 and not idle.done()
    one_more = Arriving("10.0.0.9")
    one_more.data.set_result(bytes(10))
    async with asyncio.timeout(1):
        assert len(await space.arrived(one_more, has_place=False)) == 10
        assert await idle is None
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    assert space.held_bytes == 10


async def test_one_that_carries_nothing_for_long_is_ended_and_none_begins_at_the_end() -> None:
    space = room(arrival_s=0.05)
    async with asyncio.timeout(1):
        assert await space.next(Arriving("10.0.0.1")) is None
    space.close()
    assert await space.next(Arriving("10.0.0.1")) is None and space.held_bytes == 0


async def test_what_one_carries_counts_until_the_next_message_is_asked_for() -> None:
    space, context = room(), Arriving("10.0.0.1")
    context.data.set_result(bytes(30))
    messages = space.messages(context, len)
    assert await anext(messages) == 30 and space.held_bytes == 30
    waiting = Arriving("10.0.0.1")
    context.data = waiting.data
    following = asyncio.ensure_future(anext(messages))
    await asyncio.sleep(0)
    assert space.held_bytes == 100
    waiting.data.set_result(bytes(7))
    assert await following == 7 and space.held_bytes == 7
    messages.close()
    assert space.held_bytes == 0
