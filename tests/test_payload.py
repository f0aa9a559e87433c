"""What goes upstream as a feature and what as the photo it came as, and that no call is more than a cloud takes."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
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
from offramp.engine.payload import ANY_SENT, PayloadRule, Sent, decode_pixels, encode_pixels
from offramp.engine.tier import Answer, Handover
from offramp.serving.answers import Answers, Classified, TierTime
from offramp.serving.call import Call, Sample
from offramp.serving.offload import Accepts, UpstreamState
from offramp.serving.offload.payload import ChosenPayloads
from offramp.serving.running import running_node
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceStub
from tests.nodes import Pixels, closed_port_address, png, predict, running_cloud, running_edge
from tests.tiny import tiny_network

SHARING = 50.0  # milliseconds; all that a test sends at once travels together, if it may


class Upstream:
    """Answers each sample with its number as confidence, and remembers what went to which block, and as what."""

    def __init__(self, **accepts: Any) -> None:
        self.calls: list[tuple[Sent, list[str]]] = []
        self.asked: list[Call] = []
        limits = {"besides_features": ANY_SENT, "max_pixels": 1000, "max_samples": 8}
        self.accepts = Accepts(**{**limits, **accepts})

    state = UpstreamState("upstream:1", up=True, reason=None)

    async def resume(self, call: Call) -> Answers:
        assert call.first_block == (2 if call.sent == "feature" else 1)
        self.asked.append(call)
        self.calls.append((call.sent, [sample.request_id for sample in call.samples]))
        samples = [
            Classified(Answer(sample.feature, float(sample.request_id) / 100, 2), "cloud")
            for sample in call.samples
        ]
        return Answers(samples, [TierTime("cloud", 0.0, float(call.first_block))])


PIXELS = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


async def sent(
    upstream: Upstream,
    samples: Sequence[tuple[int, int]],
    *,
    payload: str = "exact",
    feature_bytes: float = 100,
    pixels: Pixels | None = None,
) -> list[tuple[Sent, list[str]]]:
    """Send samples of so many image bytes (0: no image) and pixels."""
    call = Call(
        samples=[
            Sample(str(number), bytes(size) or None, count, Handover(2, np.zeros(25, np.float32), (), pixels))
            for number, (size, count) in enumerate(samples)
        ],
        thetas=(0.5, 0.7),
        first_block=2,
    )
    rule = PayloadRule(payload, feature_bytes, PIXELS.nbytes)
    answers = await ChosenPayloads(upstream, rule, passed_exits=1).resume(call)
    assert [round(100 * sample.answer.confidence) for sample in answers.samples] == list(range(len(samples)))
    return upstream.calls


async def test_whichever_takes_fewer_bytes_is_sent() -> None:
    found = await sent(Upstream(), [(99, 10), (100, 10), (0, 0), (1, 10)])
    assert found == [("image", ["0", "3"]), ("feature", ["1", "2"])]


async def test_what_block_1_took_is_sent_where_that_is_the_smallest() -> None:
    upstream = Upstream()
    found = await sent(upstream, [(5000, 10), (20, 10), (0, 0)], feature_bytes=4000, pixels=PIXELS)
    assert found == [("image", ["1"]), ("pixels", ["0", "2"])]
    encoded = upstream.asked[1].samples[0].image
    assert encoded is not None and len(encoded) < PIXELS.nbytes
    np.testing.assert_array_equal(decode_pixels(encoded, preprocessing_of(PIXELS)), PIXELS)


async def test_a_lossy_payload_is_what_every_sample_with_pixels_is_sent_as() -> None:
    upstream = Upstream()
    assert await sent(upstream, [(1, 10)], payload="webp-20", pixels=PIXELS) == [("pixels", ["0"])]
    assert upstream.asked[0].samples[0].image == encode_pixels(PIXELS, "webp-20")
    assert await sent(Upstream(), [(1, 10)], payload="webp-20") == [("image", ["0"])]


async def test_where_only_features_may_be_sent_no_picture_is() -> None:
    found = await sent(Upstream(), [(1, 10)], payload="feature", pixels=PIXELS)
    assert found == [("feature", ["0"])]


async def test_exits_that_were_passed_do_not_answer_upstream_either() -> None:
    upstream = Upstream()
    await sent(upstream, [(1, 10), (0, 0)])
    assert [call.thetas for call in upstream.asked] == [(1.0, 0.7), (0.5, 0.7)]


@pytest.mark.parametrize(
    "accepts", [frozenset(), frozenset({"image"})], ids=["features only", "an older one"]
)
async def test_an_upstream_is_sent_only_what_it_knows(accepts: frozenset[Sent]) -> None:
    found = await sent(
        Upstream(besides_features=accepts), [(4500, 10), (5000, 10)], feature_bytes=4600, pixels=PIXELS
    )
    expected = [("image", ["0"]), ("feature", ["1"])] if accepts else [("feature", ["0", "1"])]
    assert found == expected


async def test_a_photo_of_more_pixels_than_the_upstream_takes_goes_as_a_feature() -> None:
    assert await sent(Upstream(), [(1, 1000), (1, 1001)]) == [("image", ["0"]), ("feature", ["1"])]


async def test_no_call_holds_more_pixels_or_samples_than_the_upstream_takes() -> None:
    assert await sent(Upstream(), [(1, 600)] * 3) == [("image", [number]) for number in "012"]
    found = await sent(Upstream(max_samples=2), [(0, 0)] * 3)
    assert found == [("feature", ["0", "1"]), ("feature", ["2"])]


@pytest.mark.parametrize("payload", ["exact", "jpeg-90", "webp-30"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_come_back_as_they_were_or_nearly(payload: str, channels: int) -> None:
    smooth = np.repeat(np.linspace(0, 255, 24 * 16).reshape(16, 24, 1), channels, axis=2).astype(np.uint8)
    back = decode_pixels(encode_pixels(smooth, payload), preprocessing_of(smooth))
    assert np.abs(back.astype(int) - smooth).max() <= (0 if payload == "exact" else 30)


def preprocessing_of(pixels: Pixels) -> Preprocessing:
    height, width, channels = pixels.shape
    mode: Any = "L" if channels == 1 else "RGB"
    return Preprocessing(
        height=height, width=width, mode=mode, mean=(0.5,) * channels, std=(0.25,) * channels
    )


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
    assert {answer["sent"] for answer in answers} == {"pixels", "image"}


async def test_what_is_sent_and_answered_is_what_was_evaluated(wide_bundle: Bundle) -> None:
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
