"""An upstream that lies: nothing it says reaches a client, a metric or a log unchecked; over real gRPC and HTTP."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from prometheus_client import generate_latest

from offramp.bundle import Bundle
from offramp.engine.tier import Answer
from offramp.errors import BundleMismatchError, OffloadError, OffloadReason
from offramp.serving.answers import Answers, Classified, TierTime
from offramp.serving.metrics import NodeMetrics
from offramp.wire.v1 import wire_pb2 as pb
from tests.nodes import Pixels, png, predict, running_edge
from tests.upstreams import Reply, Upstream, answer, never, offloader, replying, resume, serving

NAN, INFINITE = float("nan"), float("inf")

pytestmark = pytest.mark.usefixtures("either_way")


def numbers(*values: float) -> bytes:
    return np.array(values, dtype="<f4").tobytes()


def timed(*times: pb.TierTime) -> Reply:
    async def reply(request: pb.InferRequest, context: Any) -> pb.InferResponse:
        return pb.InferResponse(answers=[answer()], times=times)

    return reply


LIES: dict[str, tuple[Reply, str]] = {
    "negative": (replying(answer(probabilities=numbers(-0.5, 0.5, 0.5, 0.5))), "probabilities"),
    "huge": (replying(answer(probabilities=numbers(1e30, 0, 0, 0))), "probabilities"),
    "all 0": (replying(answer(probabilities=numbers(0, 0, 0, 0))), "probabilities"),
    "all 1": (replying(answer(probabilities=numbers(1, 1, 1, 1))), "probabilities"),
    "infinite": (replying(answer(probabilities=numbers(INFINITE, 0, 0, 0))), "probabilities"),
    "infinite confidence": (replying(answer(confidence=INFINITE)), "confidence inf"),
    "an exit before the split": (replying(answer(exit_number=1)), "expected .* 2 to 3"),
    "no tier": (replying(answer(tier="")), "calls its tier ''"),
    "HTML": (replying(answer(tier="<b>cloud</b>")), "calls its tier"),
    "a tier of 1 MB": (replying(answer(tier="a" * 2**20)), "larger than max"),
    "a tier of 10 kB": (replying(answer(tier="a" * 10_000)), "calls its tier 'a+…'"),
    "a tier with a line break": (replying(answer(tier="cloud\n")), "calls its tier"),
    "a reason of 60 MB": (replying(answer(degraded_reason="a" * 60_000_000)), "larger than max"),
    "NaN queued": (timed(pb.TierTime(tier="cloud", queue_ms=NAN)), "queued for nan ms"),
    "NaN computed": (timed(pb.TierTime(tier="cloud", compute_ms=NAN)), "computed for nan ms"),
    "a negative time": (timed(pb.TierTime(tier="cloud", queue_ms=-1)), "queued for -1 ms"),
    "an endless time": (timed(pb.TierTime(tier="cloud", queue_ms=INFINITE)), "queued for inf ms"),
    "times of nobody": (timed(pb.TierTime()), "calls its tier ''"),
    "a hundred times": (timed(*[pb.TierTime(tier="cloud")] * 100), "times of 100 tiers"),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_lie_is_a_refusal_in_few_words(tiny_bundle: Bundle, name: str) -> None:
    reply, says = LIES[name]
    upstream = Upstream(tiny_bundle.manifest.bundle_id, reply)
    async with serving(upstream) as address, offloader(tiny_bundle, address) as client:
        with pytest.raises(OffloadError, match=says) as caught:
            await resume(client)
        assert client.state.up, "it answers, and may say something true next time"
    assert caught.value.reason is OffloadReason.REFUSED
    assert len(str(caught.value)) < 700


async def test_a_reason_is_cut_and_holds_no_control_characters(tiny_bundle: Bundle) -> None:
    said = "gone\x1b[2J\r\n" + "a" * 10_000
    upstream = Upstream(tiny_bundle.manifest.bundle_id, replying(answer(degraded_reason=said)))
    async with serving(upstream) as address, offloader(tiny_bundle, address) as client:
        reason = (await resume(client)).samples[0].degraded_reason
    assert reason is not None and reason.startswith("gone\N{REPLACEMENT CHARACTER}[2J")
    assert len(reason) == 300 and reason.isprintable()


async def test_what_it_says_of_itself_is_cut_too(tiny_bundle: Bundle) -> None:
    async with serving(Upstream("b" * 30_000 + "\n", never)) as address:
        with pytest.raises(BundleMismatchError) as caught:
            async with offloader(tiny_bundle, address):
                pass
    assert "deploy the same bundle" in str(caught.value) and len(str(caught.value)) < 700


async def test_an_edge_shows_nothing_of_it(
    tiny_bundle: Bundle, tiny_pixels: Pixels, caplog: pytest.LogCaptureFixture
) -> None:
    async def lie(request: pb.InferRequest, context: Any) -> pb.InferResponse:
        said = answer(
            request_id=request.request_ids[0], tier="<script>" * 1000, degraded_reason="<script>" * 1000
        )
        return pb.InferResponse(answers=[said])

    caplog.set_level(logging.INFO)
    upstream = Upstream(tiny_bundle.manifest.bundle_id, lie)
    async with serving(upstream) as address, running_edge(tiny_bundle, upstream=address) as edge:
        await edge.put("/v1/policy", json={"thetas": [1.0, 1.0]})
        found = await predict(edge, png(tiny_pixels[0]))
        metrics = (await edge.get("/metrics")).text
    assert found["degraded"] and len(found["degraded_reason"]) < 700
    assert "<script>" not in metrics
    assert max(len(record.getMessage()) for record in caplog.records) < 1500


def test_an_upstream_can_name_only_so_many_tiers_in_metrics(tiny_bundle: Bundle) -> None:
    metrics = NodeMetrics(tiny_bundle.manifest)
    said = Answer(np.full(4, 0.25, np.float32), 0.25, 3)
    for number in range(1000):
        one: Sequence[Classified] = [Classified(said, f"tier-{number}", sent="feature")]
        metrics.answered(Answers(one, [TierTime("edge", 0, 0)]), 0.1)
    series = [
        line for line in generate_latest(metrics.registry).decode().splitlines() if "_samples_total{" in line
    ]
    assert len([line for line in series if "offramp_samples_total" in line]) <= 17
    assert any('tier="other"' in line and line.endswith(" 984.0") for line in series)
