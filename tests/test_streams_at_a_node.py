"""Calls that carry one request after another, as a node answers, refuses and ends them; over real gRPC."""

from __future__ import annotations

import asyncio
import struct
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from cloud_node.server import CloudServer
from cloud_node.settings import CloudSettings
from offramp.bundle import Bundle
from offramp.serving.access.keys import KeptKeys, Right, new_key
from offramp.serving.running import running_node
from offramp.wire.messages import SERVICE_NAME
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceStub
from tests.nodes import running_cloud
from tests.test_cloud import request
from tests.test_cloud_door import refusal

STREAM = f"/{SERVICE_NAME}/InferStream"


async def test_a_node_drops_a_streamed_request_whose_time_is_over(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = CloudSettings(bundle=tiny_bundle.directory, port=0, blocks="2-3", drain_s=0.0, workers=1)
    async with running_node(settings, tiny_bundle, (2, 3)) as node:
        run = node.tier.run

        def slow(*given: Any, **named: Any) -> Any:
            time.sleep(0.3)
            return run(*given, **named)

        monkeypatch.setattr(node.tier, "run", slow)
        server = CloudServer(node, settings)
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
            patient, hasty = stub.InferStream(), stub.InferStream()
            await patient.write(request(tiny_bundle, timeout_ms=5000))
            await asyncio.sleep(0.1)
            await hasty.write(request(tiny_bundle, timeout_ms=50))
            assert (await patient.read()).answers
            refused = (await hasty.read()).refusal
            assert refused.status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
            assert "deadline passed" in refused.reason
        await server.drain()


async def test_a_node_refuses_one_request_and_answers_the_next(tiny_bundle: Bundle) -> None:
    async with running_cloud(tiny_bundle) as address, grpc.aio.insecure_channel(address) as channel:
        stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
        call = stub.InferStream()
        given: tuple[dict[str, Any], ...] = ({"bundle_id": "other"}, {}, {"request_ids": []}, {})
        for changes in given:
            await call.write(request(tiny_bundle, **changes))
            found = await call.read()
            assert found.HasField("refusal") is bool(changes)
            assert [each.request_id for each in found.answers] == ([] if changes else ["a", "b"])


@pytest.mark.parametrize(
    ("message", "ends_with"), [(b"\xff\xff\xff rubbish", grpc.StatusCode.INVALID_ARGUMENT), (b"", None)]
)
async def test_rubbish_ends_the_call_and_an_empty_request_is_refused(
    tiny_bundle: Bundle, message: bytes, ends_with: grpc.StatusCode | None
) -> None:
    async with running_cloud(tiny_bundle) as address, grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.stream_stream(STREAM, None, None)(None)
        await call.write(message)
        if ends_with:
            code, says = await refusal(call.read())
            assert code is ends_with and "not a message" in says
        else:
            refused = pb.InferResponse.FromString(await call.read()).refusal
            assert refused.status == grpc.StatusCode.FAILED_PRECONDITION.value[0]


async def test_a_node_that_stops_ends_them_and_finishes_what_they_carry(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = CloudSettings(bundle=tiny_bundle.directory, port=0, blocks="2-3", drain_s=0.0)
    async with running_node(settings, tiny_bundle, (2, 3)) as node:
        server = CloudServer(node, settings)
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
            silent, busy = stub.InferStream(), stub.InferStream()
            for call in (silent, busy):
                await call.write(request(tiny_bundle))
                assert (await call.read()).answers
            classify, begun = node.classify, asyncio.Event()

            async def slow(call: Any) -> Any:
                begun.set()
                await asyncio.sleep(0.2)
                return await classify(call)

            monkeypatch.setattr(node, "classify", slow)
            await busy.write(request(tiny_bundle))
            await begun.wait()
            draining = asyncio.create_task(server.drain())
            assert not isinstance(await silent.read(), pb.InferResponse)
            assert await silent.code() is grpc.StatusCode.OK and not draining.done()
            assert (await busy.read()).answers
            assert await busy.code() is grpc.StatusCode.OK
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


def frame(kind: int, flags: int, stream: int, data: bytes = b"") -> bytes:
    """An HTTP/2 frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(data))[1:] + struct.pack(">BBI", kind, flags, stream) + data


def header(name: str, value: str) -> bytes:
    """A header that is neither indexed nor compressed (RFC 7541, section 6.2.2)."""
    return b"\0" + b"".join(struct.pack(">B", len(each)) + each.encode() for each in (name, value))


async def begin_deaf(writer: asyncio.StreamWriter, message: bytes, *, calls: int) -> None:
    """Send a message on each of so many calls, with no room for any answer."""
    headers = {":method": "POST", ":scheme": "http", ":path": STREAM, ":authority": "x", "te": "trailers"}
    headers |= {"content-type": "application/grpc"}
    block = b"".join(header(name, value) for name, value in headers.items())
    no_window = struct.pack(">HI", 4, 0)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, no_window) + frame(4, 1, 0))
    for number in range(calls):
        writer.write(frame(1, 4, 2 * number + 1, block))
        writer.write(frame(0, 0, 2 * number + 1, b"\0" + struct.pack(">I", len(message)) + message))
    await writer.drain()


async def test_whoever_takes_no_answer_holds_no_room(tiny_bundle: Bundle) -> None:
    unknown = pb.InferRequest.FromString(b"\x7a\xb8\x17" + bytes(3000))
    message = request(tiny_bundle).SerializeToString() + unknown.SerializeToString()
    async with running_cloud(tiny_bundle, max_message_bytes=5000, max_buffered_bytes=120_000) as address:
        host, _, port = address.rpartition(":")
        deaf = [await asyncio.open_connection(host, int(port)) for _ in range(10)]
        for reader, writer in deaf:
            await begin_deaf(writer, message, calls=5)
            await reader.read(1)
        await asyncio.sleep(0.2)
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
            for _ in range(10):
                assert (await stub.Infer(request(tiny_bundle), timeout=5)).answers
        for _, writer in deaf:
            writer.close()
            await writer.wait_closed()
