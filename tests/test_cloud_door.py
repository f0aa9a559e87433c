"""What strangers may hold of a cloud node, and what they are told beyond it; over real gRPC."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cloud_node.room import Limits, Room
from cloud_node.server import RIGHTS
from offramp.bundle import Bundle
from offramp.errors import OverloadError
from offramp.wire.messages import SERVICE_NAME
from offramp.wire.v1.wire_pb2_grpc import TierServiceStub
from tests.nodes import closed_port_address, running_cloud
from tests.test_cloud import request

INFER = f"/{SERVICE_NAME}/Infer"
WATCH = health_pb2.HealthCheckRequest(service=SERVICE_NAME)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


@pytest.mark.parametrize("method", RIGHTS)
async def test_bytes_that_are_no_message_are_an_invalid_argument_and_no_traceback(
    tiny_bundle: Bundle, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_cloud(tiny_bundle) as address, grpc.aio.insecure_channel(address) as channel:
        for _ in range(20):
            code, says = await refusal(
                channel.unary_unary(method, bytes, bytes)(b"\xff\xff\xff rubbish", timeout=5)
            )
            assert code is grpc.StatusCode.INVALID_ARGUMENT and "not a message" in says
        for unknown in ("/a/b", f"/{SERVICE_NAME}/Nothing", "nothing"):
            code, _ = await refusal(channel.unary_unary(unknown, bytes, bytes)(b"\xff", timeout=5))
            assert code is grpc.StatusCode.UNIMPLEMENTED
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) <= 2 and not any(record.exc_info for record in said)


async def test_a_message_has_to_arrive_in_time_and_others_are_answered_meanwhile(tiny_bundle: Bundle) -> None:
    async with (
        running_cloud(
            tiny_bundle, message_timeout_s=0.3, max_buffered_bytes=20_000, max_message_bytes=10_000
        ) as address,
        grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as strange,
        grpc.aio.insecure_channel(address) as channel,
    ):
        begun = time.monotonic()
        infer: Any = strange.stream_unary(INFER, bytes, bytes)
        silent = [infer(timeout=5) for _ in range(8)]
        found = [await refusal(each) for each in silent]
        assert {says for _, says in found} == {
            "the message did not arrive within 0.3 s; send it faster",
            "no room for another message within 0.3 s; send fewer at a time",
        }
        assert time.monotonic() - begun < 2
        stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
        assert await stub.Infer(request(tiny_bundle), timeout=5)


class Arriving:
    """The context of a call from a host, whose message arrives when a test says so."""

    def __init__(self, host: str) -> None:
        self.data: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._host = host

    def peer(self) -> str:
        return f"ipv4:{self._host}:4711"

    async def read(self) -> bytes:
        return await self.data


def room(**changes: Any) -> Room:
    limits = {"message_bytes": 100, "buffered_bytes": 400, "arriving": 8, "streams": 8, "arrival_s": 5}
    return Room(Limits(**{**limits, **changes}))


async def held(room: Room, context: Arriving, until: asyncio.Event) -> None:
    async with room.message(context):
        await until.wait()


async def test_a_message_on_its_way_counts_as_the_largest_and_then_as_it_is() -> None:
    until, space = asyncio.Event(), room()
    calls = [Arriving(f"10.0.0.{number % 2}") for number in range(6)]
    tasks = [asyncio.create_task(held(space, call, until)) for call in calls]
    await asyncio.sleep(0)
    assert space.held_bytes == 400 and space.waiting == 2
    for call in calls[:3]:
        call.data.set_result(bytes(10))
    await asyncio.sleep(0.01)
    assert space.held_bytes == 3 * 10 + 3 * 100 and space.waiting == 0
    tasks[4].cancel()
    await asyncio.sleep(0.01)
    assert space.held_bytes == 3 * 10 + 2 * 100
    until.set()
    for call in (calls[3], calls[5]):
        call.data.set_result(bytes(100))
    await asyncio.gather(*tasks, return_exceptions=True)
    assert space.held_bytes == 0


async def test_one_host_leaves_half_of_the_room_to_others() -> None:
    until, space = asyncio.Event(), room()
    tasks = [asyncio.create_task(held(space, Arriving("10.0.0.1"), until)) for _ in range(4)]
    await asyncio.sleep(0)
    assert space.held_bytes == 200 and space.waiting == 2
    other = Arriving("10.0.0.2")
    other.data.set_result(bytes(10))
    async with asyncio.timeout(1), space.message(other) as data:
        assert len(data) == 10
    with pytest.raises(OverloadError, match=r"4 of them from ipv4:10\.0\.0\.1"):
        async with space.message(Arriving("10.0.0.1")):
            pass
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert space.held_bytes == 0 and space.waiting == 0


async def test_a_call_that_finds_no_room_in_time_is_told_so() -> None:
    space = room(arrival_s=0.05, buffered_bytes=100)
    until = asyncio.Event()
    first = Arriving("10.0.0.1")
    first.data.set_result(bytes(60))
    task = asyncio.create_task(held(space, first, until))
    await asyncio.sleep(0)
    with pytest.raises(OverloadError, match="no room for another message within"):
        async with space.message(Arriving("10.0.0.2")):
            pass
    until.set()
    await task


async def watching(address: str, stack: AsyncExitStack, count: int) -> list[Any]:
    """So many health watches, each over a connection of its own."""
    calls = []
    for _ in range(count):
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options))
        stub: Any = health_pb2_grpc.HealthStub(channel)
        call = stub.Watch(WATCH)
        assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
        calls.append(call)
    return calls


async def test_health_watches_take_no_place_of_calls(tiny_bundle: Bundle) -> None:
    async with running_cloud(tiny_bundle, max_pending=1) as address, AsyncExitStack() as stack:
        await watching(address, stack, 3)
        async with grpc.aio.insecure_channel(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            watches = [health.Watch(WATCH) for _ in range(600)]
            for watch in watches:
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
            assert await stub.Infer(request(tiny_bundle), timeout=5)


async def test_one_host_has_half_of_the_streams(tiny_bundle: Bundle) -> None:
    async with running_cloud(tiny_bundle, max_streams=8) as address, AsyncExitStack() as stack:
        *_, last = await watching(address, stack, 4)
        async with grpc.aio.insecure_channel(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            code, says = await refusal(health.Watch(WATCH).read())
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and "4 open streams" in says
            last.cancel()
            async with asyncio.timeout(5):
                while True:
                    watch = health.Watch(WATCH)
                    try:
                        assert await watch.read()
                        break
                    except grpc.aio.AioRpcError:
                        await asyncio.sleep(0.01)


async def test_a_watcher_that_does_not_read_keeps_nobody_from_the_news(tiny_bundle: Bundle) -> None:
    async with AsyncExitStack() as stack:
        async with running_cloud(tiny_bundle) as address:
            deaf, well = await watching(address, stack, 2)
        # It has told everybody, and stopped.
        assert (await well.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        deaf.cancel()


async def test_a_node_that_cannot_work_says_so_to_health_checks(exitless_bundle: Bundle) -> None:
    async with (
        running_cloud(exitless_bundle, blocks="2-2", upstream=closed_port_address()) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        found = await health.Check(WATCH)
        assert found.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_request_ids_that_cannot_be_printed_are_refused(tiny_bundle: Bundle) -> None:
    async with running_cloud(tiny_bundle) as address, grpc.aio.insecure_channel(address) as channel:
        stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
        call = stub.Infer(request(tiny_bundle, request_ids=["a\nevent=answered", "b"]))
        code, says = await refusal(call)
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "cannot be printed" in says
