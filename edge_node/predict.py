"""`POST /v1/predict`, the hot path: plain ASGI, because a framework's route can cost more than the model."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import orjson
from starlette.types import Receive, Scope, Send

from edge_node.asked import Asked, asked
from edge_node.body import LimitedBody
from edge_node.errors import MethodError, SlowBodyError, refusal_for
from edge_node.policy import Policy
from edge_node.said import said
from edge_node.sent_images import ImageReader
from edge_node.settings import EdgeSettings
from offramp.engine.images import open_images
from offramp.errors import ExpiredError, OverloadError
from offramp.logs import line
from offramp.serving.answers import Answers, Classified, TierTime
from offramp.serving.call import Call, Sample
from offramp.serving.http.clients import client_of, closing, connection_of, has_left
from offramp.serving.http.limits import ALONE_S
from offramp.serving.http.refused import FullPath
from offramp.serving.http.share import FairShare
from offramp.serving.node import Node

_log = logging.getLogger("edge_node")

_UNLIMITED = nullcontext()  # for most requests; a timer that never rings costs as much as one that does


class Predict:
    """The ASGI application behind `/v1/predict`."""

    def __init__(self, node: Node, policy: Policy, settings: EdgeSettings) -> None:
        self._node = node
        self._policy = policy
        self._settings = settings
        self._reader = ImageReader(settings)
        self._memory = FairShare(settings.max_buffered_bytes, least=settings.max_body_bytes)
        self._places = FairShare(settings.max_pending, alone_s=ALONE_S)
        self._limits = settings.image_limits
        self._exit_names = node.tier.manifest.exit_names
        self._is_guarded = node.tier.manifest.is_guarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every error becomes a response."""
        headers: dict[str, str] = {}
        try:
            answer = await self._answer(scope, receive, headers)
        except asyncio.CancelledError:
            if has_left(scope):
                self._node.metrics.refused("client_left")
            else:
                await self._refuse(scope, send, OverloadError("this node is stopping; ask again"), headers)
            raise
        except Exception as error:  # noqa: BLE001 - whatever happens, the client gets an answer
            await self._refuse(scope, send, error, headers)
        else:
            await _send(send, 200, orjson.dumps(answer), headers)
            if connection := connection_of(scope):
                connection.door.pace.answered()

    async def _refuse(self, scope: Scope, send: Send, error: Exception, headers: dict[str, str]) -> None:
        refusal = refusal_for(error)
        self._node.metrics.refused(refusal.code)
        closes = {"connection": "close"} if isinstance(error, SlowBodyError) else closing(scope)
        await _send(send, refusal.status, orjson.dumps(refusal.body), headers | refusal.headers | closes)
        if isinstance(error, OverloadError) and (connection := connection_of(scope)):
            connection.rest()
            if self._places.is_full:
                connection.door.fill(self._full_path(scope["path"]))

    async def _answer(self, scope: Scope, receive: Receive, headers: dict[str, str]) -> dict[str, object]:
        started = time.perf_counter()
        if scope["method"] != "POST":
            raise MethodError(
                f"{scope['method']} {scope['path']}: this path takes POST with an image as its body"
            )
        client = client_of(scope)
        if not self._places.has_room(client):  # before anything is read
            raise self._full(client)
        wanted = asked(scope)
        headers["x-request-id"] = wanted.request_id
        deadline = math.inf if wanted.timeout_s is None else time.monotonic() + wanted.timeout_s
        try:
            async with _UNLIMITED if wanted.timeout_s is None else asyncio.timeout(wanted.timeout_s):
                with self._body(scope, receive) as body:
                    images = await self._reader.read(body)
                    with self._places.taken(client) as has_place:
                        if not has_place:
                            raise self._full(client)
                        return await self._classify(images, wanted, deadline, started)
        except TimeoutError as error:
            raise ExpiredError(
                f"no answer within the {wanted.timeout_s} s that x-request-timeout-ms allows; allow more"
            ) from error

    def _body(self, scope: Scope, receive: Receive) -> LimitedBody:
        settings = self._settings
        return LimitedBody(
            scope,
            receive,
            max_bytes=settings.max_body_bytes,
            timeout_s=settings.body_timeout_s,
            setting=settings.variable("max_body_bytes"),
            budget=self._memory,
        )

    def _full_path(self, path: str) -> FullPath:
        return FullPath(
            path,
            f"{self._places.total} requests are under way, all that this node takes; try again later",
            lambda: self._places.is_full,
            lambda: self._node.metrics.refused("overloaded"),
        )

    def _full(self, client: str) -> OverloadError:
        return OverloadError(
            f"{self._places.used} requests are under way, {self._places.held(client)} of them yours, of "
            f"{self._places.total} that this node takes; try again later"
        )

    async def _classify(
        self, images: Sequence[bytes], wanted: Asked, deadline: float, started: float
    ) -> dict[str, object]:
        self._node.metrics.received(sum(map(len, images)))
        opened = open_images(images, limits=self._limits)
        call = Call(
            samples=list(map(Sample, wanted.sample_ids(len(images)), opened.files, opened.num_pixels)),
            thetas=self._policy.state.thetas,
            first_block=1,
            load=partial(opened.decode, self._node.tier.manifest.preprocessing),
            is_light=opened.is_light,
            deadline=deadline,
            traceparent=wanted.traceparent,
        )
        answers = await self._node.classify(call)
        predictions = []
        for sent, sample in zip(call.samples, answers.samples, strict=True):
            total_ms = (time.perf_counter() - started) * 1000
            predictions.append(
                self._prediction(
                    sent.request_id, sample, answers, call.thetas, total_ms, wanted.with_probabilities
                )
            )
        return predictions[0] if len(predictions) == 1 else {"predictions": predictions}

    def _prediction(
        self,
        request_id: str,
        sample: Classified,
        answers: Answers,
        thetas: Sequence[float],
        total_ms: float,
        with_probabilities: bool,
    ) -> dict[str, object]:
        manifest = self._node.tier.manifest
        answer = sample.answer
        offload_ms = answers.offload_ms if sample.offloaded or sample.degraded_reason else 0.0
        prediction: dict[str, object] = {
            "request_id": request_id,
            **said(answer, manifest),
            "confidence": answer.confidence,
            "exit": {
                "number": answer.exit_number,
                "name": self._exit_names[answer.exit_number - 1],
                "tier": sample.tier,
            },
            "exits": _exits_run(sample, thetas),
            "unfamiliar": answer.unfamiliar if self._is_guarded else None,
            "degraded": sample.degraded_reason is not None,
            "degraded_reason": sample.degraded_reason,
            "timings_ms": _timings(answers, offload_ms, total_ms),
            "sent": sample.sent or "nothing",
            "uplink_bytes": sample.uplink_bytes,
            "bundle": manifest.bundle_id,
        }
        if sample.offloaded:
            prediction["upstream_ms"] = list(map(_upstream_time, answers.times[1:]))
        if with_probabilities and manifest.labels:
            probabilities = answer.probabilities.tolist()
            prediction["probabilities"] = dict(zip(manifest.labels, probabilities, strict=True))
        # Logged once the answer is on its way.
        asyncio.get_running_loop().call_soon(_log_answer, request_id, sample, answers, offload_ms, total_ms)
        return prediction


def _timings(answers: Answers, offload_ms: float, total_ms: float) -> dict[str, float]:
    return {
        "decode": round(answers.load_ms, 3),
        "edge_compute": round(answers.times[0].compute_ms, 3),
        "offload": round(offload_ms, 3),
        "total": round(total_ms, 3),
    }


def _upstream_time(time: TierTime) -> dict[str, object]:
    return {"tier": time.tier, "queue": round(time.queue_ms, 3), "compute": round(time.compute_ms, 3)}


def _exits_run(sample: Classified, thetas: Sequence[float]) -> list[dict[str, object]]:
    answer = sample.answer
    run = list(enumerate(answer.passed, start=1))
    # A degraded answer is one of the exits that were passed.
    if answer.exit_number > len(run):
        run.append((answer.exit_number, answer.confidence))
    return [
        {
            "number": number,
            "confidence": confidence,
            "theta": thetas[number - 1] if number <= len(thetas) else None,
        }
        for number, confidence in run
    ]


def _log_answer(
    request_id: str, sample: Classified, answers: Answers, offload_ms: float, total_ms: float
) -> None:
    if not _log.isEnabledFor(logging.INFO):
        return
    _log.info(
        line(
            "answered",
            request=request_id,
            exit=sample.answer.exit_number,
            tier=sample.tier,
            confidence=sample.answer.confidence,
            degraded=sample.degraded_reason is not None,
            compute_ms=answers.times[0].compute_ms,
            offload_ms=offload_ms,
            total_ms=total_ms,
            sent=sample.sent or "nothing",
            uplink_bytes=sample.uplink_bytes,
        )
    )


async def _send(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    raw = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    raw += [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
