"""The dashboard watches real nodes and steers them, whether they come, go or refuse."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from offramp.bundle import Bundle, load_bundle
from offramp_dashboard.figures import serving_of
from offramp_dashboard.node_client import NodeClient, NodeError
from offramp_dashboard.rates import total
from offramp_dashboard.watch import MetricsWatch, Watch, gained_lately
from tests.conftest import FASHION_BUNDLE, SAMPLES
from tests.nodes import closed_port_address, first_photo, running_cloud, running_edge


async def test_a_cloud_node_is_watched_by_its_metrics_alone(tiny_bundle: Bundle) -> None:
    address = closed_port_address()
    port = int(address.rpartition(":")[2])
    async with aclosing(NodeClient(f"http://{address}")) as client:
        watch = MetricsWatch(client)
        async with (
            running_cloud(tiny_bundle, metrics_port=port) as upstream,
            running_edge(tiny_bundle, upstream=upstream) as edge,
        ):
            await watch.look()
            assert watch.fault is None
            await edge.put("/v1/policy", json={"thetas": [1, 1]})
            (await edge.post("/v1/predict", content=first_photo(SAMPLES, "bag"))).raise_for_status()
            await watch.look()
        assert serving_of(gained_lately(watch, 60), 60).samples_per_call == 1
        await watch.look()
    assert "cannot be reached" in str(watch.fault)


async def test_a_watch_keeps_what_it_knew_when_the_node_goes_and_reads_on_when_it_comes_back(
    tiny_bundle: Bundle,
) -> None:
    address = closed_port_address()
    port = int(address.rpartition(":")[2])
    async with aclosing(NodeClient(f"http://{address}")) as client:
        watch = Watch(client)
        async with running_edge(load_bundle(FASHION_BUNDLE), blocks="1-2", port=port) as edge:
            await watch.look()
            await edge.post("/v1/predict", content=first_photo(SAMPLES, "bag"))
            await watch.look()
        assert watch.fault is None
        await watch.look()
        assert "cannot be reached" in str(watch.fault)
        assert watch.manifest is not None and watch.manifest.name == "b-lenet-fashion"
        async with running_edge(tiny_bundle, blocks="1-3", port=port):
            await watch.look()
    assert watch.fault is None
    assert watch.manifest.name == "tiny"
    assert total(gained_lately(watch, 60), "offramp_samples_total") == 1


async def test_a_change_shows_what_the_node_says_and_a_refusal_changes_nothing() -> None:
    async with (
        running_edge(load_bundle(FASHION_BUNDLE), blocks="1-2") as edge,
        aclosing(NodeClient(str(edge.base_url))) as client,
    ):
        watch = Watch(client)
        await watch.choose("drop-1")
        assert watch.policy is not None and watch.policy.operating_point == "drop-1"
        with pytest.raises(NodeError, match="no operating point 'fast'"):
            await watch.choose("fast")
        assert watch.policy.operating_point == "drop-1"
        await watch.set_theta(1, 0.25)
        assert watch.policy.thetas == (0.25,)
        with pytest.raises(NodeError, match="no longer has a θ for exit 2"):
            await watch.set_theta(2, 0.25)


async def test_what_is_no_photo_is_refused_in_the_words_of_the_node() -> None:
    async with (
        running_edge(load_bundle(FASHION_BUNDLE), blocks="1-2") as edge,
        aclosing(NodeClient(str(edge.base_url))) as client,
    ):
        said = (await edge.post("/v1/predict", content=b"no photo")).json()["error"]
        with pytest.raises(NodeError) as refused:
            await client.predict(b"no photo")
    assert str(refused.value) == said


async def test_a_node_out_of_reach_is_named() -> None:
    address = f"http://{closed_port_address()}"
    async with aclosing(NodeClient(address)) as client:
        with pytest.raises(NodeError, match=f"^{address} cannot be reached"):
            await client.metrics()
