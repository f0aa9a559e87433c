"""What goes upstream as a feature and what as the photo it came as, and that no call is more than a cloud takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from offramp.bundle import Preprocessing
from offramp.engine.payload import ANY_SENT, PayloadRule, Sent, decode_pixels, encode_pixels
from offramp.engine.tier import Answer, Handover
from offramp.errors import OffloadError, OffloadReason
from offramp.serving.answers import Answers, Classified, TierTime
from offramp.serving.call import Call, Sample
from offramp.serving.offload import Accepts, UpstreamState
from offramp.serving.offload.payload import ChosenPayloads
from tests.nodes import Pixels


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


async def test_no_call_holds_more_bytes_than_the_upstream_takes() -> None:
    found = await sent(Upstream(max_features=2), [(0, 0)] * 3)
    assert found == [("feature", ["0", "1"]), ("feature", ["2"])]
    found = await sent(Upstream(max_bytes=1000), [(90, 10)] * 3 + [(900, 10)], feature_bytes=2000)
    assert found == [("image", ["0", "1"]), ("image", ["2"]), ("feature", ["3"])]


async def test_a_part_that_fails_fails_for_its_own_samples_only() -> None:
    upstream = Upstream(max_features=2)
    answer = upstream.resume

    async def resume(call: Call) -> Answers:
        if call.samples[0].request_id in failing:
            raise OffloadError("on purpose", OffloadReason.LATE, uplink_bytes=7)
        return await answer(call)

    upstream.resume = resume  # type: ignore[method-assign] # the same upstream, but for one call
    call = Call(
        samples=[Sample(str(number), None, 0, Handover(2, np.zeros(25, np.float32))) for number in range(5)],
        thetas=(0.5, 0.7),
        first_block=2,
    )
    chosen = ChosenPayloads(upstream, PayloadRule("exact", 100, PIXELS.nbytes), passed_exits=1)
    failing = {"2"}
    found = await chosen.resume(call)
    assert [round(100 * sample.answer.confidence) for sample in found.samples] == [0, 1, 4]
    assert {at: str(error) for at, error in found.failed.items()} == {2: "on purpose", 3: "on purpose"}
    failing = {"0", "2", "4"}
    with pytest.raises(OffloadError, match="on purpose"):
        await chosen.resume(call)


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
