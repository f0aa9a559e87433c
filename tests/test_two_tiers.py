"""Edge and cloud together, over real HTTP and real gRPC."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.schemas import Prediction, Predictions
from offramp.authoring.evaluation.predictions import predict_every_exit
from offramp.bundle import Bundle
from offramp.engine.runtime import load_blocks
from offramp.engine.tier import Answer, Tier
from tests.nodes import closed_port_address, png, predict, running_cloud, running_edge

Pixels = NDArray[np.uint8]


def expected_exits(bundle: Bundle, pixels: Pixels) -> list[int]:
    predictions = predict_every_exit(bundle, pixels)
    table = predictions.against(np.zeros(len(pixels), dtype=np.int64))
    return [int(exit) + 1 for exit in table.exit_taken(bundle.manifest.operating_point.thetas)]


async def test_both_tiers_answer_as_one_process_would(tiny_bundle: Bundle, tiny_pixels: Pixels) -> None:
    async with running_cloud(tiny_bundle) as cloud, running_edge(tiny_bundle, upstream=cloud) as client:
        answers = [await predict(client, png(pixels)) for pixels in tiny_pixels]
    exits = [answer["exit"]["number"] for answer in answers]
    assert exits == expected_exits(tiny_bundle, tiny_pixels)
    assert set(exits) == {1, 2, 3}, "the tiny bundle is meant to use all its exits"
    assert {a["exit"]["tier"] for a in answers if a["exit"]["number"] == 1} == {"edge"}
    assert {a["exit"]["tier"] for a in answers if a["exit"]["number"] > 1} == {"cloud"}


async def test_three_tiers_answer_as_one_process_would(tiny_bundle: Bundle, tiny_pixels: Pixels) -> None:
    async with (
        running_cloud(tiny_bundle, blocks="3-3") as cloud,
        running_cloud(tiny_bundle, blocks="2-2", upstream=cloud, tier="gateway") as gateway,
        running_edge(tiny_bundle, upstream=gateway) as client,
    ):
        answers = [await predict(client, png(pixels)) for pixels in tiny_pixels]
    exits = [answer["exit"]["number"] for answer in answers]
    assert exits == expected_exits(tiny_bundle, tiny_pixels)
    tiers = {answer["exit"]["number"]: answer["exit"]["tier"] for answer in answers}
    assert tiers == {1: "edge", 2: "gateway", 3: "cloud"}
    deepest = next(answer for answer in answers if answer["exit"]["number"] == 3)
    assert [time["tier"] for time in deepest["upstream_ms"]] == ["gateway", "cloud"]


async def test_probabilities_after_the_wire_equal_those_of_the_unsplit_network(
    tiny_bundle: Bundle, tiny_pixels: Pixels
) -> None:
    whole = Tier(tiny_bundle.manifest, load_blocks(tiny_bundle, 1, 3), start=1)
    async with running_cloud(tiny_bundle) as cloud, running_edge(tiny_bundle, upstream=cloud) as client:
        for pixels in tiny_pixels:
            response = await client.post("/v1/predict?probabilities=true", content=png(pixels))
            outcome = whole.run(pixels[np.newaxis], tiny_bundle.manifest.operating_point.thetas)[0]
            assert isinstance(outcome, Answer)
            found = list(response.json()["probabilities"].values())
            assert np.abs(outcome.probabilities - found).max() <= 1e-5


async def test_a_confident_edge_never_asks_the_cloud(tiny_bundle: Bundle, tiny_pixels: Pixels) -> None:
    async with running_cloud(tiny_bundle) as cloud, running_edge(tiny_bundle, upstream=cloud) as client:
        await client.put("/v1/policy", json={"thetas": [0.0, 0.0]})
        answers = [await predict(client, png(pixels)) for pixels in tiny_pixels[:5]]
    assert {answer["exit"]["number"] for answer in answers} == {1}
    assert {answer["uplink_bytes"] for answer in answers} == {0}
    assert {answer["timings_ms"]["offload"] for answer in answers} == {0.0}


async def test_thetas_changed_at_the_edge_decide_in_the_cloud_too(
    tiny_bundle: Bundle, tiny_pixels: Pixels
) -> None:
    image = png(tiny_pixels[0])
    async with running_cloud(tiny_bundle) as cloud, running_edge(tiny_bundle, upstream=cloud) as client:
        await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
        assert (await predict(client, image))["exit"]["number"] == 3
        await client.put("/v1/policy", json={"thetas": [1.0, 0.0]})
        assert (await predict(client, image))["exit"]["number"] == 2


async def test_several_images_keep_their_order(tiny_bundle: Bundle, tiny_pixels: Pixels) -> None:
    files = [("images", (f"{n}.png", png(pixels), "image/png")) for n, pixels in enumerate(tiny_pixels)]
    async with running_cloud(tiny_bundle) as cloud, running_edge(tiny_bundle, upstream=cloud) as client:
        response = await client.post("/v1/predict", files=files, headers={"x-request-id": "walk-7"})
        singly = [await predict(client, png(pixels)) for pixels in tiny_pixels]
    together = Predictions.model_validate(response.json()).predictions
    assert [one.request_id for one in together] == [f"walk-7-{n}" for n in range(1, 41)]
    assert [one.label for one in together] == [one["label"] for one in singly]
    assert [one.exit.number for one in together] == [one["exit"]["number"] for one in singly]


async def test_many_clients_at_once_get_their_own_answers(tiny_bundle: Bundle, tiny_pixels: Pixels) -> None:
    async with running_cloud(tiny_bundle) as cloud, running_edge(tiny_bundle, upstream=cloud) as client:
        alone = [await predict(client, png(pixels)) for pixels in tiny_pixels]
        crowd = await asyncio.gather(
            *(
                predict(client, png(pixels), **{"x-request-id": f"r{n}"})
                for n, pixels in enumerate(tiny_pixels)
            )
        )
    assert [one["request_id"] for one in crowd] == [f"r{n}" for n in range(len(crowd))]
    assert [one["confidence"] for one in crowd] == [one["confidence"] for one in alone]


async def test_an_answer_follows_its_schema_to_the_letter(tiny_bundle: Bundle, tiny_pixels: Pixels) -> None:
    async with running_cloud(tiny_bundle) as cloud, running_edge(tiny_bundle, upstream=cloud) as client:
        await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
        answer = await predict(client, png(tiny_pixels[0]))
    prediction = Prediction.model_validate(answer)
    assert prediction.bundle == tiny_bundle.manifest.bundle_id
    assert prediction.uplink_bytes > 4 * 8 * 4 * 4, "the feature alone, as float32"
    assert not prediction.degraded and prediction.degraded_reason is None


async def test_an_unreachable_cloud_is_a_warning_and_answers_are_degraded(
    tiny_bundle: Bundle, tiny_pixels: Pixels
) -> None:
    async with running_edge(tiny_bundle, upstream=closed_port_address()) as client:
        await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
        answer = await predict(client, png(tiny_pixels[0]))
        ready = await client.get("/readyz")
    assert answer["degraded"] and "cannot be reached" in answer["degraded_reason"]
    assert answer["exit"] == {"number": 1, "name": "exit-1", "tier": "edge"}
    assert ready.status_code == 200 and not ready.json()["upstream"]["up"]


async def test_an_edge_without_exits_refuses_with_503_while_the_cloud_is_gone(
    exitless_bundle: Bundle, tiny_pixels: Pixels
) -> None:
    async with running_edge(exitless_bundle, upstream=closed_port_address()) as client:
        response = await client.post("/v1/predict", content=png(tiny_pixels[0]))
        ready = await client.get("/readyz")
    assert response.status_code == 503 and response.headers["retry-after"] == "1"
    assert response.json()["code"] == "upstream_unavailable"
    assert ready.status_code == 503


async def test_answers_are_whole_again_soon_after_the_cloud_is_back(
    tiny_bundle: Bundle, tiny_pixels: Pixels
) -> None:
    address = closed_port_address()
    async with running_edge(tiny_bundle, upstream=address) as client:
        await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
        assert (await predict(client, png(tiny_pixels[0])))["degraded"]
        async with running_cloud(tiny_bundle, port=int(address.rpartition(":")[2])):
            async with asyncio.timeout(5):
                while (await predict(client, png(tiny_pixels[0])))["degraded"]:
                    await asyncio.sleep(0.05)


async def test_a_gateway_answers_for_a_cloud_that_is_gone(tiny_bundle: Bundle, tiny_pixels: Pixels) -> None:
    async with (
        running_cloud(tiny_bundle, blocks="2-2", upstream=closed_port_address(), tier="gateway") as gateway,
        running_edge(tiny_bundle, upstream=gateway) as client,
    ):
        await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
        answer = await predict(client, png(tiny_pixels[0]))
    assert answer["degraded"] and "cannot be reached" in answer["degraded_reason"]
    assert answer["exit"] == {"number": 2, "name": "exit-2", "tier": "gateway"}


async def test_readiness_tells_what_is_behind_the_upstream(tiny_bundle: Bundle, tiny_pixels: Pixels) -> None:
    address = closed_port_address()
    cloud = f"127.0.0.1:{address.rpartition(':')[2]}"
    async with (
        running_cloud(tiny_bundle, blocks="2-2", upstream=cloud, tier="gateway") as gateway,
        running_edge(tiny_bundle, upstream=gateway) as client,
    ):

        async def behind() -> Any:
            await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
            await predict(client, png(tiny_pixels[0]))
            upstream = (await client.get("/readyz")).json()["upstream"]
            assert upstream["up"]
            return upstream["behind"]

        lost = await behind()
        assert lost["target"] == cloud and not lost["up"] and "cannot be reached" in lost["reason"]
        async with running_cloud(tiny_bundle, port=int(cloud.rpartition(":")[2]), blocks="3-3"):
            async with asyncio.timeout(5):
                while not (found := await behind())["up"]:
                    await asyncio.sleep(0.05)
        assert found == {"target": cloud, "up": True, "reason": None}


async def test_features_that_are_too_much_for_one_message_go_in_several(
    tiny_bundle: Bundle, tiny_pixels: Pixels
) -> None:
    files = [("image", (f"{number}.png", png(pixels))) for number, pixels in enumerate(tiny_pixels[:21])]
    said = {}
    for most in (10**7, 8192):
        async with (
            running_cloud(tiny_bundle, max_message_bytes=most) as cloud,
            running_edge(tiny_bundle, upstream=cloud) as client,
        ):
            await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
            answer = await client.post("/v1/predict", files=files)
            assert answer.status_code == 200, answer.text
            found = answer.json()["predictions"]
            assert {each["degraded_reason"] for each in found} == {None}
            said[most] = [(each["label"], each["confidence"]) for each in found]
    assert said[8192] == said[10**7]


async def test_a_client_that_leaves_early_disturbs_nobody(tiny_bundle: Bundle, tiny_pixels: Pixels) -> None:
    async with running_cloud(tiny_bundle) as cloud, running_edge(tiny_bundle, upstream=cloud) as client:
        for _ in range(5):
            with pytest.raises(httpx.ReadTimeout):
                await client.post(
                    "/v1/predict", content=png(tiny_pixels[0]), timeout=httpx.Timeout(5, read=1e-9)
                )
        assert await predict(client, png(tiny_pixels[0]))


async def test_an_edge_without_traffic_notices_that_its_upstream_has_gone(tiny_bundle: Bundle) -> None:
    async with AsyncExitStack() as cloud:
        address = await cloud.enter_async_context(running_cloud(tiny_bundle))
        async with running_edge(tiny_bundle, upstream=address) as edge:
            assert (await edge.get("/readyz")).json()["upstream"]["up"] is True
            await cloud.aclose()
            async with asyncio.timeout(10):
                while (await edge.get("/readyz")).json()["upstream"]["up"]:
                    await asyncio.sleep(0.05)
