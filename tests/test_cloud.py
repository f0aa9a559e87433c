"""The gRPC interface: what it answers, what it refuses, and how it leaves; over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cloud_node.server import CloudServer
from cloud_node.settings import CloudSettings
from offramp.bundle import Bundle
from offramp.engine.runtime import load_blocks
from offramp.engine.tier import Answer, Tier
from offramp.errors import ConfigError
from offramp.serving.running import running_node
from offramp.wire.messages import SERVICE_NAME
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceStub
from tests.nodes import closed_port_address, running_cloud

SHAPE = (8, 4, 4)


def feature(samples: int = 2) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).random((samples, *SHAPE), dtype=np.float32)


def request(bundle: Bundle, **changes: Any) -> pb.InferRequest:
    """A call the cloud accepts, but for `changes`."""
    values = feature()
    fields: dict[str, Any] = {
        "bundle_id": bundle.manifest.bundle_id,
        "request_ids": ["a", "b"],
        "next_block": 2,
        "thetas": [1.0, 1.0],
        "feature": pb.FeatureTensor(codec=pb.CODEC_FLOAT32, shape=values.shape, payload=values.tobytes()),
    }
    return pb.InferRequest(**{**fields, **changes})


def tensor(**changes: Any) -> pb.FeatureTensor:
    values = feature()
    fields = {"codec": pb.CODEC_FLOAT32, "shape": values.shape, "payload": values.tobytes()}
    return pb.FeatureTensor(**{**fields, **changes})


@pytest_asyncio.fixture(scope="module")
async def channel(tiny_bundle: Bundle) -> AsyncIterator[grpc.aio.Channel]:
    async with running_cloud(tiny_bundle) as address, grpc.aio.insecure_channel(address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated


async def test_it_answers_every_sample_in_order_with_its_times(stub: Any, tiny_bundle: Bundle) -> None:
    response = await stub.Infer(request(tiny_bundle))
    tier = Tier(tiny_bundle.manifest, load_blocks(tiny_bundle, 2, 3), start=2)
    expected = [answer for answer in tier.run(feature(), (1.0, 1.0)) if isinstance(answer, Answer)]
    assert [answer.request_id for answer in response.answers] == ["a", "b"]
    assert [answer.exit_number for answer in response.answers] == [3, 3]
    assert [answer.confidence for answer in response.answers] == [answer.confidence for answer in expected]
    assert response.times[0].tier == "cloud" and response.times[0].compute_ms > 0


async def test_it_starts_at_any_block_of_its_range(stub: Any, tiny_bundle: Bundle) -> None:
    response = await stub.Infer(request(tiny_bundle, next_block=3))
    assert [answer.exit_number for answer in response.answers] == [3, 3]


async def test_it_describes_itself(stub: Any, tiny_bundle: Bundle) -> None:
    found = await stub.Describe(pb.DescribeRequest())
    assert (found.bundle_id, found.first_block, found.last_block) == (tiny_bundle.manifest.bundle_id, 2, 3)
    assert pb.CODEC_FLOAT32 in found.codecs


HUGE = np.full(256, 3e38, "<f4").tobytes()

INVALID: dict[str, tuple[Callable[[Bundle], pb.InferRequest], str]] = {
    "no samples": (lambda b: request(b, request_ids=[]), "0 samples"),
    "more ids than samples": (lambda b: request(b, request_ids=["a", "b", "c"]), "shape"),
    "too many samples": (lambda b: request(b, request_ids=["x"] * 5000), "5000 samples"),
    "block 0": (lambda b: request(b, next_block=0), "next_block is 0"),
    "block 1": (lambda b: request(b, next_block=1), "next_block is 1"),
    "block 9": (lambda b: request(b, next_block=9), "next_block is 9"),
    "no thetas": (lambda b: request(b, thetas=[]), "0 thetas"),
    "theta above 1": (lambda b: request(b, thetas=[1.5, 0.5]), "theta of exit 1 is 1.5"),
    "theta NaN": (lambda b: request(b, thetas=[0.5, float("nan")]), "theta of exit 2 is nan"),
    "no codec": (lambda b: request(b, feature=tensor(codec=0)), "codec 0"),
    "unknown codec": (lambda b: request(b, feature=tensor(codec=99)), "codec 99"),
    "wrong shape": (lambda b: request(b, feature=tensor(shape=(2, 8, 4, 5))), "(2, 8, 4, 5)"),
    "absurd shape": (lambda b: request(b, feature=tensor(shape=(2**31, 2**31))), "expected (2, 8, 4, 4)"),
    "too short": (lambda b: request(b, feature=tensor(payload=b"abc")), "got 3"),
    "half precision claimed": (
        lambda b: request(b, feature=tensor(codec=pb.CODEC_FLOAT16)),
        "needs 512 bytes",
    ),
    "NaN": (lambda b: request(b, feature=tensor(payload=b"\xff" * 1024)), "NaN"),
    "beyond any output": (
        lambda b: request(b, feature=tensor(payload=np.full(256, 3e38, "<f4").tobytes())),
        "not a number",
    ),
    "endless id": (lambda b: request(b, request_ids=["a" * 5000, "b"]), "5000 characters"),
    "no feature": (lambda b: request(b, feature=pb.FeatureTensor()), "codec 0"),
}


@pytest.mark.parametrize("name", INVALID)
async def test_a_malformed_call_is_an_invalid_argument_that_names_it(
    stub: Any, tiny_bundle: Bundle, name: str
) -> None:
    make, says = INVALID[name]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Infer(make(tiny_bundle))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert says in (caught.value.details() or "")


async def test_bytes_that_are_no_message_do_not_hurt_it(
    channel: grpc.aio.Channel, tiny_bundle: Bundle
) -> None:
    call = channel.unary_unary(f"/{SERVICE_NAME}/Infer", lambda raw: raw, pb.InferResponse.FromString)
    with pytest.raises(grpc.aio.AioRpcError):
        await call(b"\xff\xff\xff rubbish")
    stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
    assert await stub.Infer(request(tiny_bundle))


async def test_another_bundle_is_refused_with_both_ids_named(stub: Any, tiny_bundle: Bundle) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Infer(request(tiny_bundle, bundle_id="other-123"))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    details = caught.value.details() or ""
    assert "other-123" in details and tiny_bundle.manifest.bundle_id in details


async def test_it_answers_health_checks_and_reflection(channel: grpc.aio.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    found = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
    assert found.status == health_pb2.HealthCheckResponse.SERVING
    mirror: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = mirror.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = [service.name async for reply in call for service in reply.list_services_response.service]
    assert SERVICE_NAME in names


async def test_a_taken_port_is_one_clear_error(tiny_bundle: Bundle) -> None:
    async with running_cloud(tiny_bundle) as address:
        port = int(address.rpartition(":")[2])
        settings = CloudSettings(bundle=tiny_bundle.directory, port=port)
        async with running_node(settings, tiny_bundle, (2, 3)) as node:
            with pytest.raises(ConfigError, match="already in use"):
                CloudServer(node, settings)


async def test_a_middle_tier_without_an_exit_says_that_its_upstream_is_gone(exitless_bundle: Bundle) -> None:
    async with (
        running_cloud(exitless_bundle, blocks="2-2", upstream=closed_port_address()) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Infer(request(exitless_bundle, thetas=[]))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_draining_tells_health_checks_first_and_finishes_what_is_under_way(tiny_bundle: Bundle) -> None:
    settings = CloudSettings(bundle=tiny_bundle.directory, port=0, blocks="2-3", drain_s=0.3)
    async with running_node(settings, tiny_bundle, (2, 3)) as node:
        server = CloudServer(node, settings)
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
            health: Any = health_pb2_grpc.HealthStub(channel)
            await stub.Infer(request(tiny_bundle))
            draining = asyncio.create_task(server.drain())
            await asyncio.sleep(0)
            calls = [stub.Infer(request(tiny_bundle)) for _ in range(20)]
            found = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
            answers = await asyncio.gather(*calls)
            await draining
    assert found.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert all(len(answer.answers) == 2 for answer in answers)
