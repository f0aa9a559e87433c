"""What nodes count, as Prometheus reads it."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cloud_node.server import CloudServer
from cloud_node.settings import CloudSettings
from offramp.bundle import Bundle
from offramp.errors import ConfigError
from offramp.serving.running import running_node
from tests.nodes import closed_port_address, png, predict, running_cloud, running_edge
from tests.upstreams import Upstream, never, serving

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Figures:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(figures: Figures, metric: str, /, **labels: str) -> float:
    return figures.get((f"offramp_{metric}", frozenset(labels.items())), 0.0)


async def figures_of(client: httpx.AsyncClient) -> Figures:
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return parsed(response.text)


async def test_every_answer_is_counted_where_it_was_given(tiny_bundle: Bundle, tiny_pixels: Any) -> None:
    async with running_cloud(tiny_bundle) as cloud, running_edge(tiny_bundle, upstream=cloud) as client:
        images = [png(pixels) for pixels in tiny_pixels]
        answers = [await predict(client, image) for image in images]
        found = await figures_of(client)
    for number, name in enumerate(("exit-1", "exit-2", "final"), start=1):
        here = [answer for answer in answers if answer["exit"]["number"] == number]
        tier = "edge" if number == 1 else "cloud"
        assert here and value(found, "samples_total", exit=name, tier=tier, outcome="ok") == len(here)
        assert value(found, "sample_seconds_count", exit=name) == len(here)
        assert value(found, "confidence_sum", exit=name) == pytest.approx(sum(a["confidence"] for a in here))
    assert value(found, "uplink_bytes_total", sent="feature") == sum(a["uplink_bytes"] for a in answers)
    assert value(found, "uplink_samples_total", sent="feature") == sum(
        a["sent"] == "feature" for a in answers
    )
    assert value(found, "image_bytes_total") == sum(map(len, images))
    assert value(found, "stage_seconds_count", stage="blocks") == len(answers)
    offloaded = sum(answer["exit"]["number"] > 1 for answer in answers)
    assert value(found, "stage_seconds_count", stage="offload") == offloaded
    assert value(found, "stage_seconds_count", stage="upstream_compute") == offloaded
    assert value(found, "upstream_up") == 1 and value(found, "pending") == 0
    assert value(found, "bundle_info", bundle=tiny_bundle.manifest.bundle_id) == 1


async def test_what_is_degraded_and_what_is_refused_is_counted_with_its_reason(tiny_bundle: Bundle) -> None:
    image = png(np.full((8, 8, 3), 128, np.uint8))
    async with running_edge(tiny_bundle, upstream=closed_port_address()) as client:
        await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
        answer = await predict(client, image)
        await client.post("/v1/predict", content=b"no image")
        found = await figures_of(client)
    assert answer["degraded"]
    assert value(found, "degraded_total", reason="unreachable") == 1
    assert value(found, "samples_total", exit="exit-1", tier="edge", outcome="degraded") == 1
    assert value(found, "refused_total", code="unsupported_media") == 1
    assert value(found, "upstream_up") == 0


async def test_what_was_sent_without_an_answer_is_counted_apart(tiny_bundle: Bundle) -> None:
    image = png(np.full((8, 8, 3), 128, np.uint8))
    async with (
        serving(Upstream(tiny_bundle.manifest.bundle_id, never)) as address,
        running_edge(tiny_bundle, upstream=address, offload_timeout_s=0.05) as client,
    ):
        await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
        answer = await predict(client, image)
        found = await figures_of(client)
    assert answer["degraded"] and answer["uplink_bytes"] > 0
    assert value(found, "uplink_bytes_total", sent="unanswered") == answer["uplink_bytes"]
    assert value(found, "uplink_samples_total", sent="unanswered") == 1
    assert value(found, "uplink_bytes_total", sent="feature") == 0


async def test_the_point_and_the_thetas_in_force_are_told(tiny_bundle: Bundle) -> None:
    async with running_edge(tiny_bundle, blocks="1-3") as client:
        before = await figures_of(client)
        await client.put("/v1/policy", json={"thetas": [0.25, 0.75]})
        after = await figures_of(client)
    name = tiny_bundle.manifest.default_operating_point
    assert (
        value(before, "operating_point_info", name=name),
        value(before, "operating_point_info", name=""),
    ) == (1, 0)
    assert (
        value(after, "operating_point_info", name=name),
        value(after, "operating_point_info", name=""),
    ) == (0, 1)
    assert [value(after, "theta", exit=exit) for exit in ("exit-1", "exit-2")] == [0.25, 0.75]


async def test_a_cloud_tells_its_figures_over_http(tiny_bundle: Bundle) -> None:
    settings = CloudSettings(bundle=tiny_bundle.directory, port=0, metrics_port=0, drain_s=0.0)
    image = png(np.full((8, 8, 3), 128, np.uint8))
    async with running_node(settings, tiny_bundle, (1, 3)) as node:
        server = CloudServer(node, settings)
        await server.start()
        address = f"http://127.0.0.1:{server.metrics_port}/metrics"
        try:
            async with running_edge(tiny_bundle, upstream=f"127.0.0.1:{server.port}") as client:
                await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
                await predict(client, image)
            async with httpx.AsyncClient(timeout=5, trust_env=False) as anyone:
                found = parsed((await anyone.get(address)).text)
                assert (await anyone.head(address)).status_code == 200
                assert (await anyone.post(address)).headers["allow"] == "GET, HEAD"
                assert (await anyone.get(address.replace("/metrics", "/healthz"))).status_code == 200
                assert (await anyone.get(address + "x")).status_code == 404
                assert (await anyone.get(address, headers={"host": "evil.example"})).status_code == 421
            taken = settings.model_copy(update={"metrics_port": server.metrics_port})
            second = CloudServer(node, taken)
            with pytest.raises(ConfigError, match="another --metrics-port"):
                await second.start()
        finally:
            await server.drain()
    assert value(found, "samples_total", exit="final", tier="cloud", outcome="ok") == 1
    assert value(found, "process_resident_memory_bytes") == 0, "process figures carry their usual names"
    assert found[("process_resident_memory_bytes", frozenset())] > 1e6
