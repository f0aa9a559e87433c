"""An answer tells the confidence of every exit that was run for it, whichever tier ran it."""

from __future__ import annotations

import math
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from offramp.authoring.evaluation.predictions import predict_every_exit
from offramp.bundle import Bundle
from offramp.errors import OffloadError
from tests.nodes import closed_port_address, png, predict, running_cloud, running_edge
from tests.upstreams import Upstream, answer, offloader, replying, resume, serving

Pixels = NDArray[np.uint8]
NEVER, ALWAYS = 1.0, 0.0


async def told(edge: httpx.AsyncClient, pixels: Pixels, *thetas: float) -> dict[str, Any]:
    """The answer for one image under these θ."""
    (await edge.put("/v1/policy", json={"thetas": thetas})).raise_for_status()
    return await predict(edge, png(pixels))


def check_exits(answer: dict[str, Any], bundle: Bundle, pixels: Pixels, thetas: list[float | None]) -> None:
    """As many exits as there are θ, with the confidences of the evaluation."""
    expected = predict_every_exit(bundle, pixels[np.newaxis]).confidence[0].tolist()
    assert answer["exits"] == [
        {"number": number, "confidence": expected[number - 1], "theta": theta}
        for number, theta in enumerate(thetas, start=1)
    ]


async def test_every_exit_that_was_run_is_told_on_whatever_tier(
    tiny_bundle: Bundle, tiny_pixels: Pixels
) -> None:
    image = tiny_pixels[0]
    async with (
        running_cloud(tiny_bundle, blocks="3-3", tier="core") as core,
        running_cloud(tiny_bundle, blocks="2-2", upstream=core) as cloud,
        running_edge(tiny_bundle, upstream=cloud) as edge,
    ):
        check_exits(await told(edge, image, NEVER, NEVER), tiny_bundle, image, [NEVER, NEVER, None])
        check_exits(await told(edge, image, NEVER, ALWAYS), tiny_bundle, image, [NEVER, ALWAYS])
        check_exits(await told(edge, image, ALWAYS, NEVER), tiny_bundle, image, [ALWAYS])


async def test_an_upstream_that_gets_the_photo_tells_each_exit_once(
    tiny_bundle: Bundle, tiny_pixels: Pixels
) -> None:
    async with (
        running_cloud(tiny_bundle, blocks="1-3") as cloud,
        running_edge(tiny_bundle, upstream=cloud) as edge,
    ):
        answer = await told(edge, tiny_pixels[0], NEVER, NEVER)
        assert answer["sent"] == "image"
        check_exits(answer, tiny_bundle, tiny_pixels[0], [NEVER, NEVER, None])


async def test_a_degraded_answer_tells_all_exits_that_were_passed(
    tiny_bundle: Bundle, tiny_pixels: Pixels
) -> None:
    gone = closed_port_address()
    async with running_edge(tiny_bundle, blocks="1-2", upstream=gone) as edge:
        for pixels in tiny_pixels[:3]:
            answer = await told(edge, pixels, NEVER, NEVER)
            assert answer["degraded"]
            check_exits(answer, tiny_bundle, pixels, [NEVER, NEVER])
            surest = max(answer["exits"], key=lambda exit: exit["confidence"])
            assert (answer["exit"]["number"], answer["confidence"]) == (
                surest["number"],
                surest["confidence"],
            )


async def test_a_middle_tier_that_loses_its_upstream_tells_all_exits_that_were_passed(
    tiny_bundle: Bundle, tiny_pixels: Pixels
) -> None:
    async with (
        running_cloud(tiny_bundle, blocks="2-2", upstream=closed_port_address()) as cloud,
        running_edge(tiny_bundle, upstream=cloud) as edge,
    ):
        answer = await told(edge, tiny_pixels[0], NEVER, NEVER)
    assert answer["degraded"]
    check_exits(answer, tiny_bundle, tiny_pixels[0], [NEVER, NEVER])


@pytest.mark.parametrize("passed", [[1.5], [-0.1], [math.nan], [math.inf], [0.5, 0.5], [0.5] * 10_000])
async def test_confidences_of_an_upstream_that_cannot_be_are_refused(
    tiny_bundle: Bundle, passed: list[float]
) -> None:
    upstream = Upstream(tiny_bundle.manifest.bundle_id, replying(answer(passed=passed)))
    async with serving(upstream) as address, offloader(tiny_bundle, address) as client:
        with pytest.raises(OffloadError, match="expected 1, each from 0 to 1") as refused:
            await resume(client)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("passed", [[], [0.5]])
async def test_an_upstream_may_tell_the_exits_it_passed_or_not(
    tiny_bundle: Bundle, passed: list[float]
) -> None:
    upstream = Upstream(tiny_bundle.manifest.bundle_id, replying(answer(passed=passed)))
    async with serving(upstream) as address, offloader(tiny_bundle, address) as client:
        assert (await resume(client)).samples[0].answer.passed == tuple(passed)
