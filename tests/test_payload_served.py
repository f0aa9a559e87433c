"""What is sent between real nodes, and that it is answered as it was evaluated."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from PIL import Image

from edge_node.settings import EdgeSettings
from offramp.authoring.evaluation.predictions import predict_every_exit
from offramp.authoring.export import export_bundle
from offramp.bundle import Bundle, Preprocessing
from offramp.serving.offload import streams
from offramp.serving.running import running_node
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceStub
from tests.nodes import closed_port_address, png, predict, running_cloud, running_edge
from tests.tiny import tiny_network

SHARING = 50.0  # milliseconds; all that a test sends at once travels together, if it may


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
        # Each but the last has another one behind it, so that they wait for one another.
        answers = await asyncio.gather(*(predict(client, image) for image in (SKETCH, small, SKETCH, SKETCH)))
    assert {answer["degraded_reason"] for answer in answers} == {None}
    assert {answer["sent"] for answer in answers} == {"pixels", "image"}


async def test_what_is_sent_and_answered_is_what_was_evaluated(
    wide_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_MAX_AGE_S", 0.0)  # evaluation counts a call for each sample
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    files = [png(image) for image in pixels]
    sizes = np.array([len(file) for file in files])
    for payload in ("exact", "feature", "webp-20"):
        expected = predict_every_exit(wide_bundle, pixels, file_bytes=sizes, payload=payload)
        assert expected.offloads is not None
        async with (
            running_cloud(wide_bundle, blocks="1-3") as cloud,
            running_edge(wide_bundle, upstream=cloud, payload=payload) as client,
        ):
            await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
            answers = [await predict(client, file) for file in files]
        assert [answer["sent"] for answer in answers] == expected.offloads.sent.tolist()
        assert [answer["confidence"] for answer in answers] == expected.confidence[:, -1].tolist()
        told = np.array([answer["uplink_bytes"] for answer in answers])
        np.testing.assert_allclose(told, expected.offloads.socket_bytes, rtol=0.02)


@pytest.mark.parametrize(
    ("calibrated", "given", "says"),
    [
        ("exact", "webp-20", "payload_not_calibrated"),
        ("webp-20", None, "payload_not_certified"),
        ("webp-20", "exact", None),
    ],
)
async def test_a_node_says_at_its_start_what_a_lossy_payload_lacks(
    wide_bundle: Bundle,
    calibrated: str,
    given: str | None,
    says: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    manifest = wide_bundle.manifest
    point = manifest.operating_point.model_copy(update={"payload": calibrated})
    bundle = replace(wide_bundle, manifest=manifest.model_copy(update={"operating_points": (point,)}))
    settings = EdgeSettings(bundle=bundle.directory, port=0, payload=given, upstream=closed_port_address())
    async with running_node(settings, bundle, (1, 1)):
        pass
    found = [record.getMessage() for record in caplog.records if "payload_not" in record.getMessage()]
    assert [says in message for message in found if says] == ([True] if says else [])
    assert len(found) == bool(says)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pixels": [png(np.zeros((9, 8, 3), np.uint8))]}, "pixels of 8 x 9, but block 1 takes 8 x 8"),
        ({"pixels": [b"no picture"]}, "not an image this node reads"),
        ({"pixels": [b"", b""]}, "2 pixels for block 1"),
        ({"pixels": [b""], "images": [b""]}, "images and pixels; send one of them"),
        ({"pixels": [b""], "next_block": 2}, "1 pixels for block 2"),
    ],
)
async def test_pixels_that_do_not_fit_are_refused(
    tiny_bundle: Bundle, given: dict[str, Any], message: str
) -> None:
    async with (
        running_cloud(tiny_bundle, blocks="1-3") as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
        common = {"bundle_id": tiny_bundle.manifest.bundle_id, "request_ids": ["a"], "thetas": [1.0, 1.0]}
        with pytest.raises(grpc.aio.AioRpcError, match=message) as caught:
            await stub.Infer(pb.InferRequest(**{"next_block": 1, **common, **given}))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("clouds", [{"max_pixels": 25_000_000}, {}])
async def test_a_photo_that_the_edge_takes_is_answered_by_the_cloud_whatever_that_takes(
    wide_bundle: Bundle, clouds: dict[str, Any]
) -> None:
    async with (
        running_cloud(wide_bundle, blocks="1-3", **clouds) as cloud,
        running_edge(wide_bundle, upstream=cloud, max_pixels=50_000_000, offload_timeout_s=10.0) as client,
    ):
        await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
        answer = await predict(client, LARGE)
    assert (answer["degraded_reason"], answer["exit"]["tier"]) == (None, "cloud")
    assert answer["sent"] == "pixels"  # of which a black square has few bytes


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
