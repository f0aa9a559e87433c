"""Work that nobody waits for is dropped: at the edge, on the wire and in the cloud; over real gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from cloud_node.server import CloudServer
from cloud_node.settings import CloudSettings
from offramp.bundle import Bundle
from offramp.serving.crowd import Crowd
from offramp.serving.node import Node
from offramp.serving.offload.sharing import SharedCalls
from offramp.serving.running import running_node
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceStub
from tests.test_cloud import request
from tests.test_sharing import Upstream as Counted
from tests.test_sharing import ask
from tests.upstreams import Upstream, offloader, resume, serving

AT_ONCE_S = 0.1

pytestmark = pytest.mark.usefixtures("either_way")


class Held:
    """Does not answer, and notes when a call begins and when its caller has gone."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.gone = asyncio.Event()

    async def __call__(self, request: pb.InferRequest, context: Any) -> pb.InferResponse:
        self.begun.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.gone.set()
            raise
        raise AssertionError("nobody waits this long")


async def check_cancelled_at_once(held: Held, waiting: asyncio.Task[Any]) -> None:
    async with asyncio.timeout(5):
        await held.begun.wait()
    waiting.cancel()
    async with asyncio.timeout(AT_ONCE_S):
        await held.gone.wait()


async def test_a_call_is_cancelled_once_its_request_has_gone(tiny_bundle: Bundle) -> None:
    held = Held()
    upstream = Upstream(tiny_bundle.manifest.bundle_id, held)
    async with serving(upstream) as address, offloader(tiny_bundle, address) as client:
        await check_cancelled_at_once(held, asyncio.create_task(resume(client, timeout_s=20)))


async def test_a_shared_call_is_cancelled_once_the_last_of_its_requests_has_gone() -> None:
    upstream = Counted(delay_s=0.3)
    shared = SharedCalls(upstream, Crowd(), window_s=0.0)
    first, second = asyncio.create_task(ask(shared, 1)), asyncio.create_task(ask(shared, 2))
    await asyncio.sleep(0.02)
    assert upstream.calls == [["1", "2"]]
    first.cancel()
    await asyncio.sleep(0.02)
    assert shared.under_way == 1, "somebody still waits for it"
    second.cancel()
    await asyncio.sleep(0.02)
    assert shared.under_way == 0


@asynccontextmanager
async def middle_tier(bundle: Bundle, upstream: str) -> AsyncIterator[Any]:
    """A tier that asks another one about every sample; yields a stub that asks it, and its node."""
    settings = CloudSettings(
        bundle=bundle.directory,
        port=0,
        blocks="2-2",
        upstream=upstream,
        tier="middle",
        drain_s=0.0,
        offload_timeout_s=20,
    )
    async with running_node(settings, bundle, (2, 2)) as node, cloud_of(node, settings) as stub:
        yield stub


@asynccontextmanager
async def cloud_of(node: Node, settings: CloudSettings) -> AsyncIterator[Any]:
    server = CloudServer(node, settings)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
    finally:
        await server.drain()


async def test_a_middle_tier_whose_caller_has_gone_cancels_its_own_call(tiny_bundle: Bundle) -> None:
    held = Held()
    async with (
        serving(Upstream(tiny_bundle.manifest.bundle_id, held)) as address,
        middle_tier(tiny_bundle, address) as stub,
    ):

        async def asked() -> None:
            await stub.Infer(request(tiny_bundle), timeout=20)

        await check_cancelled_at_once(held, asyncio.create_task(asked()))


def slowly(run: Callable[..., Any], seen: list[int]) -> Callable[..., Any]:
    """Run blocks, but take some time; and note how many samples there were."""

    def slow(batch: Any, *arguments: Any, **named: Any) -> Any:
        seen.append(len(batch))
        time.sleep(0.75)
        return run(batch, *arguments, **named)

    return slow


async def test_a_call_that_waits_in_the_cloud_is_dropped_when_its_caller_has_gone(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = CloudSettings(bundle=tiny_bundle.directory, port=0, blocks="2-3", drain_s=0.0, workers=1)
    seen: list[int] = []

    def pending() -> float | None:
        return node.metrics.registry.get_sample_value("offramp_pending")

    async with running_node(settings, tiny_bundle, (2, 3)) as node, cloud_of(node, settings) as stub:
        monkeypatch.setattr(node.tier, "run", slowly(node.tier.run, seen))
        begun = stub.Infer(request(tiny_bundle), timeout=20)
        async with asyncio.timeout(5):
            while not seen:
                await asyncio.sleep(0.01)
        waiting = [stub.Infer(request(tiny_bundle), timeout=20) for _ in range(20)]
        async with asyncio.timeout(5):
            while pending() != 21:
                await asyncio.sleep(0.01)
        for call in waiting:
            call.cancel()
        async with asyncio.timeout(AT_ONCE_S):
            while pending() != 1:
                await asyncio.sleep(0.005)
        assert len((await begun).answers) == 2
        assert len((await stub.Infer(request(tiny_bundle), timeout=20)).answers) == 2
    assert seen == [2, 2], "only what somebody waited for was run"
