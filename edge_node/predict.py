"""`POST /v1/predict`, the hot path: plain ASGI, because a framework's route can cost more than the model."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Sequence
from functools import partial
from urllib.parse import parse_qsl

import orjson
from starlette.types import Receive, Scope, Send

from edge_node.body import BodyBudget, LimitedBody, read_images
from edge_node.errors import MethodError, SlowBodyError, refusal_for
from edge_node.policy import Policy
from edge_node.said import said
from edge_node.settings import EdgeSettings
from offramp.engine.images import open_images
from offramp.errors import OverloadError, RequestError
from offramp.logs import line
from offramp.serving.answers import Answers, Classified, TierTime
from offramp.serving.call import Call, Sample
from offramp.serving.node import Node
from offramp.serving.tracing import TRACEPARENT

_log = logging.getLogger("edge_node")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SWITCH = {"true": True, "1": True, "false": False, "0": False}


class Predict:
    """The ASGI application behind `/v1/predict`."""

    def __init__(self, node: Node, policy: Policy, settings: EdgeSettings) -> None:
        self._node = node
        self._policy = policy
        self._settings = settings
        self._budget = BodyBudget(settings.max_buffered_bytes)
        self._limits = settings.image_limits
        self._body_setting = settings.variable("max_body_bytes")
        self._exit_names = node.tier.manifest.exit_names
        self._is_guarded = node.tier.manifest.is_guarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every error becomes a response."""
        settings = self._settings
        body = LimitedBody(
            scope,
            receive,
            max_bytes=settings.max_body_bytes,
            timeout_s=settings.body_timeout_s,
            setting=self._body_setting,
        )
        try:
            answer = await self._answer(scope, body)
        except asyncio.CancelledError:
            refusal = refusal_for(OverloadError("this node is stopping; ask again"))
            self._node.metrics.refused(refusal.code)
            await _send(send, refusal.status, orjson.dumps(refusal.body), refusal.headers)
            raise
        except Exception as error:  # noqa: BLE001 - whatever happens, the client gets an answer
            refusal = refusal_for(error)
            self._node.metrics.refused(refusal.code)
            drained = not isinstance(error, SlowBodyError) and await body.drain()
            headers = {} if drained else {"connection": "close"}
            await _send(send, refusal.status, orjson.dumps(refusal.body), refusal.headers | headers)
        else:
            await _send(send, 200, orjson.dumps(answer), {})

    async def _answer(self, scope: Scope, body: LimitedBody) -> dict[str, object]:
        started = time.perf_counter()
        if scope["method"] != "POST":
            raise MethodError(
                f"{scope['method']} {scope['path']}: this path takes POST with an image as its body"
            )
        with_probabilities = _wants_probabilities(scope["query_string"])
        with self._budget.reserved(body):
            return await self._classify(scope, body, started, with_probabilities)

    async def _classify(
        self, scope: Scope, body: LimitedBody, started: float, with_probabilities: bool
    ) -> dict[str, object]:
        images = await read_images(scope, body, self._settings)
        self._node.check_room()
        self._node.metrics.received(sum(map(len, images)))
        opened = open_images(images, limits=self._limits)
        call = Call(
            samples=list(map(Sample, _request_ids(scope, len(images)), opened.files, opened.num_pixels)),
            thetas=self._policy.state.thetas,
            first_block=1,
            load=partial(opened.decode, self._node.tier.manifest.preprocessing),
            is_light=opened.is_light,
            traceparent=_header(scope, TRACEPARENT),
        )
        answers = await self._node.classify(call)
        predictions = []
        for asked, sample in zip(call.samples, answers.samples, strict=True):
            total_ms = (time.perf_counter() - started) * 1000
            predictions.append(
                self._prediction(asked.request_id, sample, answers, call.thetas, total_ms, with_probabilities)
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


def _wants_probabilities(query: bytes) -> bool:
    wanted = False
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name != "probabilities":
            raise RequestError(f"unknown query '{name}'; this path knows only 'probabilities'")
        if value.lower() not in _SWITCH:
            raise RequestError(f"probabilities is '{value}'; write true or false")
        wanted = _SWITCH[value.lower()]
    return wanted


def _request_ids(scope: Scope, count: int) -> list[str]:
    given = _header(scope, "x-request-id") or ""
    if given and not _REQUEST_ID.fullmatch(given):
        raise RequestError(
            f"x-request-id of {len(given)} characters is not valid; use up to 64 letters, digits, '.', '_' and '-'"
        )
    base = given or f"{random.getrandbits(64):016x}"
    return [base] if count == 1 else [f"{base}-{number}" for number in range(1, count + 1)]


def _header(scope: Scope, name: str) -> str | None:
    found: bytes | None = dict(scope["headers"]).get(name.encode())
    return None if found is None else found.decode("latin-1")


async def _send(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    raw = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    raw += [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
