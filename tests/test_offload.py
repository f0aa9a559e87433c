"""The offload client's calls to upstreams that are late, gone, foreign or talk nonsense; over real gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from offramp.bundle import Bundle
from offramp.errors import OffloadError, OffloadReason
from offramp.serving.link import Link
from offramp.wire.v1 import wire_pb2 as pb
from tests.upstreams import (
    Reply,
    Upstream,
    answer,
    failing,
    never,
    offloader,
    replying,
    resume,
    serving,
)

pytestmark = pytest.mark.usefixtures("either_way")


async def check_refused(bundle: Bundle, reply: Reply, says: str) -> OffloadError:
    upstream = Upstream(bundle.manifest.bundle_id, reply)
    async with serving(upstream) as address, offloader(bundle, address) as client:
        with pytest.raises(OffloadError, match=says) as caught:
            await resume(client)
    assert caught.value.reason is OffloadReason.REFUSED
    return caught.value


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


async def test_a_call_is_made_again_unless_the_request_is_at_fault(tiny_bundle: Bundle) -> None:
    codes = grpc.StatusCode
    # gRPC itself repeats calls that are unavailable; before that comes a streamed request, if there is one.
    unavailable = 3 + Upstream.takes_streams
    for code, calls in ((codes.UNAVAILABLE, unavailable), (codes.INTERNAL, 3), (codes.INVALID_ARGUMENT, 1)):
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


async def test_bytes_sent_in_vain_are_counted(tiny_bundle: Bundle) -> None:
    upstream = Upstream(tiny_bundle.manifest.bundle_id, never)
    async with serving(upstream) as address, offloader(tiny_bundle, address) as client:
        with pytest.raises(OffloadError) as caught:
            await resume(client, timeout_s=0.05)
    assert caught.value.uplink_bytes > 4 * 8 * 4 * 4, "the feature alone, as float32"


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
