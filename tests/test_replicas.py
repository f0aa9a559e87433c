"""Replicas that fail alone, and links that die in silence: what the offload client does about them, over real gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from offramp.bundle import Bundle
from offramp.errors import OffloadError, OffloadReason
from offramp.serving.offload import streams
from offramp.serving.offload.grpc import GrpcOffloader
from offramp.serving.offload.hedging import Hedge
from tests.upstreams import Reply, Upstream, answer, failing, never, offloader, replying, resume, serving

WELL = replying(answer())

pytestmark = pytest.mark.usefixtures("either_way")


@asynccontextmanager
async def two_replicas(
    bundle: Bundle, first: Reply, second: Reply
) -> AsyncIterator[tuple[GrpcOffloader, Upstream, Upstream]]:
    one, other = (Upstream(bundle.manifest.bundle_id, reply) for reply in (first, second))
    async with (
        serving(one) as here,
        serving(other) as there,
        offloader(bundle, f"ipv4:{here},{there}") as client,
    ):
        yield client, one, other


async def test_a_replica_that_hangs_alone_costs_no_answer_and_is_left_out(tiny_bundle: Bundle) -> None:
    async with two_replicas(tiny_bundle, WELL, never) as (client, _, hung):
        for _ in range(40):
            assert (await resume(client, timeout_s=0.5)).samples[0].offloaded
        calls, until = hung.calls, time.monotonic() + 0.6
        async with asyncio.timeout(10):
            while hung.calls > calls or time.monotonic() < until:
                calls = hung.calls
                await resume(client, timeout_s=0.5)
                await asyncio.sleep(0.02)
        assert client.state.up


@pytest.mark.parametrize(
    "reply",
    [
        failing(grpc.StatusCode.FAILED_PRECONDITION),
        failing(grpc.StatusCode.RESOURCE_EXHAUSTED),
        failing(grpc.StatusCode.INTERNAL),
        replying(answer(exit_number=9)),
    ],
    ids=["other bundle", "full", "broken", "lies"],
)
async def test_what_one_replica_refuses_another_may_answer(
    tiny_bundle: Bundle, reply: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_MAX_AGE_S", 0.02)  # otherwise one replica answers all the time
    async with two_replicas(tiny_bundle, WELL, WELL) as (client, well, refuses):
        async with asyncio.timeout(5):
            while not (well.calls and refuses.calls):
                await resume(client)  # a channel that has found one of them so far asks that one twice
            refuses.reply, refuses.calls = reply, 0
            while not refuses.calls:
                found = (await resume(client)).samples[0]
                assert found.offloaded and client.state.up
    assert found.uplink_bytes > 2 * 8 * 4 * 4 * 4, "what was sent twice counts twice"


async def test_a_failure_does_not_count_while_others_are_answered(tiny_bundle: Bundle) -> None:
    async def by_deadline(request: Any, context: Any) -> Any:
        if (request.timeout_ms / 1000 or context.time_remaining()) < 1:
            await asyncio.sleep(30)
        return await WELL(request, context)

    upstream = Upstream(tiny_bundle.manifest.bundle_id, by_deadline)
    async with serving(upstream) as address, offloader(tiny_bundle, address) as client:
        late = [asyncio.create_task(resume(client, timeout_s=0.2)) for _ in range(5)]
        await asyncio.sleep(0.05)
        await resume(client, timeout_s=5)
        found = await asyncio.gather(*late, return_exceptions=True)
        assert all(isinstance(each, OffloadError) for each in found)
        assert client.state.up
        await asyncio.gather(*(resume(client, timeout_s=0.05) for _ in range(5)), return_exceptions=True)
        assert not client.state.up, "nothing was answered since these began"


async def test_an_upstream_that_is_slow_as_a_whole_gets_hardly_more_calls() -> None:
    attempts = 0

    async def slow() -> None:
        nonlocal attempts
        attempts += 1
        await asyncio.sleep(0.05 if attempts < 120 else 0.5)

    hedge = Hedge()
    for _ in range(10):
        await asyncio.gather(*(hedge.ask(slow, timeout_s=10) for _ in range(10)))
    assert attempts <= 110, "usual times are no reason to ask again"
    for _ in range(2):
        await asyncio.gather(*(hedge.ask(slow, timeout_s=10) for _ in range(100)))
    assert attempts <= 300 + 20 + 0.05 * 300


async def test_a_call_that_is_late_anyway_has_the_error_of_its_first_attempt() -> None:
    errors = iter([OffloadError("first", OffloadReason.REFUSED), OffloadError("second", OffloadReason.LATE)])

    async def fails() -> None:
        raise next(errors)

    with pytest.raises(OffloadError, match="first"):
        await Hedge().ask(fails, timeout_s=1)


class Silencing:
    """A proxy to `target` whose connections can go dead: nothing arrives any more, and nothing is closed."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._carrying: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.silence()
        server.close()
        for writer in self._writers:
            writer.transport.abort()

    def silence(self) -> None:
        """Let all connections that there are go dead; new ones work."""
        for task in self._carrying:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target.rpartition(":")
        beyond_reader, beyond_writer = await asyncio.open_connection(host, int(port))
        self._writers += [writer, beyond_writer]
        for source, sink in ((reader, beyond_writer), (beyond_reader, writer)):
            task = asyncio.create_task(_carry(source, sink))
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65_536):
        sink.write(data)
    sink.close()


async def test_a_connection_that_died_in_silence_is_given_up_for_a_new_one(tiny_bundle: Bundle) -> None:
    upstream = Upstream(tiny_bundle.manifest.bundle_id, WELL)
    quick: dict[str, Any] = {"keepalive_s": 0.2, "keepalive_timeout_s": 0.2, "probe_timeout_s": 0.2}
    async with serving(upstream) as address:
        proxy = Silencing(address)
        async with proxy.listening() as way, offloader(tiny_bundle, way, **quick) as client:
            await resume(client)
            proxy.silence()
            with pytest.raises(OffloadError):
                await resume(client, timeout_s=0.05)
            async with asyncio.timeout(3):
                while True:
                    try:
                        await resume(client, timeout_s=0.1)
                        break
                    except OffloadError:
                        await asyncio.sleep(0.02)
