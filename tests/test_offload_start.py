"""What the offload client learns of an upstream before it sends a sample, and what it refuses then."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from offramp.bundle import Bundle
from offramp.errors import BundleMismatchError, ConfigError, OffloadError, OffloadReason
from offramp.serving.offload import Accepts
from offramp.serving.offload.offloader import MOST_SAMPLES
from offramp.wire.messages import MAX_MESSAGE_BYTES, SERVICE_NAME
from offramp.wire.v1 import wire_pb2 as pb
from tests.nodes import closed_port_address, running_cloud
from tests.upstreams import (
    Upstream,
    answer,
    draining,
    never,
    offloader,
    replying,
    resume,
    serving,
)


async def test_another_bundle_is_refused_at_start_with_both_ids_named(tiny_bundle: Bundle) -> None:
    async with serving(Upstream("other-1", never)) as address:
        with pytest.raises(BundleMismatchError, match="other-1") as caught:
            async with offloader(tiny_bundle, address):
                pass
    assert tiny_bundle.manifest.bundle_id in str(caught.value)


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


# Of a message, without what a call needs besides its samples; a feature takes 512 bytes and 256 besides.
_ALL = MAX_MESSAGE_BYTES - 4096


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({}, Accepts(frozenset(), 25_000_000, MOST_SAMPLES, _ALL // 768, _ALL)),
        (
            {"first_block": 1, "max_pixels": 9_000, "max_samples": 7},
            Accepts(frozenset({"image"}), 9_000, 7, _ALL // 768, _ALL),
        ),
        (
            {"first_block": 1, "takes_pixels": True, "max_samples": 10**6},
            Accepts(frozenset({"image", "pixels"}), 25_000_000, MOST_SAMPLES, _ALL // 768, _ALL),
        ),
        ({"max_bytes": 14_096}, Accepts(frozenset(), 25_000_000, MOST_SAMPLES, 13, 10_000)),
        ({"max_bytes": 1}, Accepts(frozenset(), 25_000_000, MOST_SAMPLES, 1, 1)),
    ],
    ids=["an older one says nothing", "a newer one does", "more than is asked", "bytes", "next to none"],
)
async def test_what_an_upstream_accepts_is_what_it_says_or_the_default(
    tiny_bundle: Bundle, described: dict[str, int], expected: Accepts
) -> None:
    upstream = Upstream(tiny_bundle.manifest.bundle_id, never)
    upstream.described = described
    async with serving(upstream) as address, offloader(tiny_bundle, address) as client:
        assert client.accepts == expected


@pytest.mark.parametrize("described", [{"first_block": 1}, {"first_block": 2, "takes_pixels": True}])
async def test_an_upstream_that_cannot_take_lossy_pixels_is_refused_at_start(
    tiny_bundle: Bundle, described: dict[str, int]
) -> None:
    upstream = Upstream(tiny_bundle.manifest.bundle_id, never)
    upstream.described = described
    async with serving(upstream) as address:
        with pytest.raises(ConfigError, match="sends webp-20 pixels, which go to block 1"):
            async with offloader(tiny_bundle, address, payload="webp-20"):
                pass


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


async def test_nobody_at_the_address_is_no_error_at_start(tiny_bundle: Bundle) -> None:
    async with offloader(tiny_bundle, closed_port_address()) as client:
        assert not client.state.up
        with pytest.raises(OffloadError) as caught:
            await resume(client)
    assert caught.value.reason is OffloadReason.UNREACHABLE


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
        assert "not a message" in (client.state.reason or "")
        async with asyncio.timeout(5):
            while not client.state.up:
                await asyncio.sleep(0.01)
    await server.stop(None)
