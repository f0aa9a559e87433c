"""What goes upstream as a feature and what as the photo it came as, and that no call is more than a cloud takes."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from PIL import Image

from offramp.authoring.export import export_bundle
from offramp.bundle import Bundle, Preprocessing
from offramp.engine.tier import Answer, Handover
from offramp.serving.answers import Answers, Classified, TierTime
from offramp.serving.call import Call, Sample
from offramp.serving.offload import Accepts, UpstreamState
from offramp.serving.offload.payload import SmallestPayload
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceStub
from tests.nodes import png, predict, running_cloud, running_edge
from tests.tiny import tiny_network

SHARING = 50.0  # milliseconds; all that a test sends at once travels together, if it may


class Upstream:
    """Answers each sample with its number as confidence, and remembers what went to which block."""

    def __init__(self, **accepts: Any) -> None:
        self.calls: list[tuple[int, list[str]]] = []
        self.accepts = Accepts(**{"images": True, "max_pixels": 1000, "max_samples": 8, **accepts})

    state = UpstreamState("upstream:1", up=True, reason=None)

    async def resume(self, call: Call) -> Answers:
        self.calls.append((call.first_block, [sample.request_id for sample in call.samples]))
        samples = [
            Classified(Answer(sample.feature, float(sample.request_id) / 100, 2), "cloud")
            for sample in call.samples
        ]
        return Answers(samples, [TierTime("cloud", 0.0, float(call.first_block))])


async def sent(upstream: Upstream, samples: Sequence[tuple[int, int]]) -> list[tuple[int, list[str]]]:
    """Send samples of so many image bytes (0: no image) and pixels; their features take 100 bytes."""
    call = Call(
        samples=[
            Sample(str(number), bytes(size) or None, pixels, Handover(2, np.zeros(25, np.float32)))
            for number, (size, pixels) in enumerate(samples)
        ],
        thetas=(),
        first_block=2,
    )
    answers = await SmallestPayload(upstream, feature_bytes=100).resume(call)
    assert [round(100 * sample.answer.confidence) for sample in answers.samples] == list(range(len(samples)))
    return upstream.calls


async def test_whichever_takes_fewer_bytes_is_sent() -> None:
    found = await sent(Upstream(), [(99, 10), (100, 10), (0, 0), (1, 10)])
    assert found == [(1, ["0", "3"]), (2, ["1", "2"])]


async def test_an_upstream_that_takes_no_images_is_sent_none() -> None:
    assert await sent(Upstream(images=False), [(1, 10), (1, 10)]) == [(2, ["0", "1"])]


async def test_a_photo_of_more_pixels_than_the_upstream_takes_goes_as_a_feature() -> None:
    assert await sent(Upstream(), [(1, 1000), (1, 1001)]) == [(1, ["0"]), (2, ["1"])]


async def test_no_call_holds_more_pixels_or_samples_than_the_upstream_takes() -> None:
    assert await sent(Upstream(), [(1, 600)] * 3) == [(1, ["0"]), (1, ["1"]), (1, ["2"])]
    assert await sent(Upstream(max_samples=2), [(0, 0)] * 3) == [(2, ["0", "1"]), (2, ["2"])]


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny network for 32 x 32 pixels: a feature of 8 kB, more than an empty drawing of millions of pixels."""
    torch.manual_seed(0)
    return export_bundle(
        tiny_network(),
        tmp_path_factory.mktemp("bundles") / "wide",
        name="wide",
        labels=("ant", "bee", "cat", "dog"),
        preprocessing=Preprocessing(height=32, width=32, mode="RGB", mean=(0.5,) * 3, std=(0.25,) * 3),
        split_point=2,
    )


def drawing(side: int) -> bytes:
    """A black square, one bit a pixel: a few kB, whatever its side."""
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


SKETCH, LARGE = drawing(3600), drawing(5200)


async def test_two_large_sketches_and_a_photo_at_once_are_all_answered_by_the_cloud(
    wide_bundle: Bundle,
) -> None:
    async with (
        running_cloud(wide_bundle, blocks="1-3") as cloud,
        running_edge(
            wide_bundle, upstream=cloud, offload_window_ms=SHARING, offload_timeout_s=10.0
        ) as client,
    ):
        await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
        small = png(np.zeros((32, 32, 3), np.uint8))
        # The first keeps a call under way, so that those behind it wait for one another.
        answers = await asyncio.gather(*(predict(client, image) for image in (SKETCH, small, SKETCH, SKETCH)))
    assert {answer["degraded_reason"] for answer in answers} == {None}
    assert {answer["sent"] for answer in answers} == {"image"}


@pytest.mark.parametrize(("clouds", "expected"), [({"max_pixels": 25_000_000}, "feature"), ({}, "image")])
async def test_a_photo_that_the_edge_takes_is_answered_by_the_cloud_whatever_that_takes(
    wide_bundle: Bundle, clouds: dict[str, Any], expected: str
) -> None:
    async with (
        running_cloud(wide_bundle, blocks="1-3", **clouds) as cloud,
        running_edge(wide_bundle, upstream=cloud, max_pixels=50_000_000, offload_timeout_s=10.0) as client,
    ):
        await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
        answer = await predict(client, LARGE)
    assert (answer["degraded_reason"], answer["exit"]["tier"]) == (None, "cloud")
    assert answer["sent"] == expected


async def test_many_photos_of_one_request_are_more_than_one_call_where_the_cloud_takes_few(
    wide_bundle: Bundle,
) -> None:
    files = [("images", (f"{number}.png", SKETCH, "image/png")) for number in range(3)]
    async with (
        running_cloud(wide_bundle, blocks="1-3", max_samples=1) as cloud,
        running_edge(wide_bundle, upstream=cloud, max_pixels=50_000_000, offload_timeout_s=10.0) as client,
    ):
        await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
        response = await client.post("/v1/predict", files=files)
    assert [answer["degraded_reason"] for answer in response.json()["predictions"]] == [None] * 3


async def test_a_cloud_tells_what_it_accepts_and_refuses_more(tiny_bundle: Bundle) -> None:
    async with (
        running_cloud(tiny_bundle, blocks="1-3", max_pixels=100, max_samples=5) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
        found = await stub.Describe(pb.DescribeRequest())
        assert (found.max_pixels, found.max_samples) == (100, 5)
        images = [png(np.zeros((8, 8, 3), np.uint8))] * 2
        call = pb.InferRequest(
            bundle_id=tiny_bundle.manifest.bundle_id,
            request_ids=["a", "b"],
            next_block=1,
            thetas=[1.0, 1.0],
            images=images,
        )
        with pytest.raises(grpc.aio.AioRpcError, match="over its limit of 100 pixels") as caught:
            await stub.Infer(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
