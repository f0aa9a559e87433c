"""A cloud that lies (row 11): whatever it answers, the edge's answers stay those of its schema, and small."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import numpy as np

from edge_node.schemas import Prediction
from offramp.bundle import load_bundle
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceServicer, add_TierServiceServicer_to_server
from tests.chaos import files
from tests.chaos.nodes import BUNDLE, everything_to_the_cloud
from tests.chaos.stage import Check, Outcome, Scenario, Stage, until

_CLASSES = 10
_LONGEST_ANSWER, _LONGEST_METRICS = 20_000, 200_000

Lie = Callable[[pb.InferResponse], None]


def _probabilities(*first: float, others: float = 0.0) -> Lie:
    packed = np.array([*first, *[others] * (_CLASSES - len(first))], "<f4").tobytes()
    return lambda reply: _each(reply, probabilities=packed)


def _each(reply: pb.InferResponse, **fields: Any) -> None:
    for answer in reply.answers:
        answer.MergeFrom(pb.Answer(**fields))


def _times(value: float) -> Lie:
    return lambda reply: reply.times[0].MergeFrom(pb.TierTime(queue_ms=value, compute_ms=value))


def _many_times(reply: pb.InferResponse) -> None:
    reply.times.extend([pb.TierTime(tier="t", queue_ms=1, compute_ms=1)] * 200_000)


LIES: Mapping[str, Lie] = {
    "negative probabilities": _probabilities(-1, 2),
    "probabilities of 1e30": _probabilities(1e30, -1e30, 1),
    "probabilities of 0": _probabilities(0),
    "probabilities that are no number": _probabilities(others=math.nan),
    "a confidence above 1": lambda reply: _each(reply, confidence=7.0),
    "an exit that doesn't exist": lambda reply: _each(reply, exit_number=77),
    "an exit before the split": lambda reply: _each(reply, exit_number=1),
    "a tier name of 1 MB of HTML": lambda reply: _each(reply, tier="<b>" * 350_000),
    "a time's tier name of 1 MB": lambda reply: reply.times[0].MergeFrom(pb.TierTime(tier="<b>" * 350_000)),
    "a reason of 60 MB": lambda reply: _each(reply, degraded_reason="r" * 60_000_000),
    "times that are no number": _times(math.nan),
    "times without end": _times(math.inf),
    "negative times": _times(-5),
    "200,000 times": _many_times,
    "no times": lambda reply: reply.ClearField("times"),
    "another request's id": lambda reply: _each(reply, request_id="somebody-else"),
    "no answers": lambda reply: reply.ClearField("answers"),
}
# Answers that say nothing false, only too little; they may be passed on.
_HARMLESS = {"no times"}


class _Liar(TierServiceServicer):
    def __init__(self) -> None:
        self.lie: Lie = lambda _: None
        self.calls = 0
        self._manifest = load_bundle(BUNDLE).manifest

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:
        return pb.DescribeResponse(
            bundle_id=self._manifest.bundle_id, tier="cloud", first_block=2, last_block=3,
            codecs=[pb.CODEC_FLOAT32], max_samples=1024,
        )  # fmt: skip

    async def Infer(self, request: pb.InferRequest, context: Any) -> pb.InferResponse:
        self.calls += 1
        probabilities = np.full(_CLASSES, 1 / _CLASSES, "<f4").tobytes()
        answers = [
            pb.Answer(
                request_id=name, probabilities=probabilities, confidence=0.1, exit_number=3, tier="cloud"
            )
            for name in request.request_ids
        ]
        reply = pb.InferResponse(answers=answers, times=[pb.TierTime(tier="cloud", queue_ms=1, compute_ms=1)])
        self.lie(reply)
        return reply


@asynccontextmanager
async def _serving(liar: _Liar) -> AsyncIterator[str]:
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    add_TierServiceServicer_to_server(liar, server)  # type: ignore[no-untyped-call] # generated
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def lying_cloud(stage: Stage) -> Outcome:
    checks = []
    liar = _Liar()
    async with _serving(liar) as address:
        edge = await asyncio.to_thread(lambda: stage.edge("--upstream", address, "--offload-timeout-s", "20"))
        await asyncio.to_thread(everything_to_the_cloud, edge)
        async with httpx.AsyncClient(base_url=edge.url, timeout=60, trust_env=False) as client:
            for name, lie in LIES.items():
                liar.lie = lambda _: None
                await until(lambda: _is_whole(edge.url), within_s=15)
                liar.lie = lie
                checks.append(await _check(client, name))
            metrics = len((await client.get("/metrics")).content)
    limit = f"/metrics of at most {_LONGEST_METRICS:,} bytes"
    return Outcome([*checks, Check(limit, metrics <= _LONGEST_METRICS, f"{metrics:,}")], attacked=liar.calls)


async def _check(client: httpx.AsyncClient, name: str) -> Check:
    response = await client.post("/v1/predict?probabilities=true", content=files.small_photo())
    body = response.content
    if len(body) > _LONGEST_ANSWER:
        return Check(name, holds=False, found=f"an answer of {len(body):,} bytes")
    if response.status_code != 200:
        return Check(
            name, holds=response.status_code == 503, found=f"{response.status_code} {response.text[:80]}"
        )
    try:
        said = Prediction.model_validate_json(body, strict=True)
    except ValueError as error:
        return Check(name, holds=False, found=f"not of the schema: {str(error).splitlines()[1:3]}"[:100])
    return Check(
        name, holds=said.degraded or name in _HARMLESS, found="degraded" if said.degraded else "whole"
    )


def _is_whole(url: str) -> bool:
    found = httpx.post(f"{url}/v1/predict", content=files.small_photo(), timeout=20, trust_env=False).json()
    return found.get("degraded") is False


SCENARIOS = [Scenario(11, "lying-cloud", "answers that are false, endless or of 60 MB", lying_cloud)]
