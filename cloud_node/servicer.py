"""The gRPC front door: checks a call, passes it to the node, and translates answers and errors."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import Any, NoReturn, Protocol

import grpc

from cloud_node.settings import CloudSettings
from offramp.engine.images import open_images
from offramp.engine.tier import checked_thetas
from offramp.errors import (
    BundleMismatchError,
    ConfigError,
    ExpiredError,
    FeatureError,
    OffloadError,
    OfframpError,
    OverloadError,
    RequestError,
)
from offramp.logs import line
from offramp.serving.answers import Answers
from offramp.serving.call import Call, Sample
from offramp.serving.metrics import NodeMetrics
from offramp.serving.node import Node
from offramp.serving.offload import UpstreamState
from offramp.serving.tracing import TRACEPARENT
from offramp.wire.codec import SUPPORTED_CODECS, decode_feature
from offramp.wire.messages import probabilities_to_bytes
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceServicer

_log = logging.getLogger("cloud_node")

# The first row that matches decides. Any other exception is a bug: INTERNAL.
_STATUS: tuple[tuple[type[OfframpError], grpc.StatusCode], ...] = (
    (BundleMismatchError, grpc.StatusCode.FAILED_PRECONDITION),
    (OverloadError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (ExpiredError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (OffloadError, grpc.StatusCode.UNAVAILABLE),
    (RequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
)

_LONGEST_ID = 100


class Context(Protocol):
    """What the servicer needs from the context of a call; `grpc.aio` provides it, and other servers can be adapted."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None if there is no deadline."""
        ...

    def invocation_metadata(self) -> Any:
        """Pairs of name and value that came with the message."""
        ...

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        """End the call with a status."""
        ...


class TierServicer(TierServiceServicer):
    """Serves one node's tier."""

    def __init__(
        self, node: Node, settings: CloudSettings, *, max_bytes: int = 0, streams: bool = False
    ) -> None:
        """Serve `node` within the limits of its settings on the samples of a call, and on the pixels of its images.

        max_bytes: of a call, as callers are told; 0 does not tell. streams: whether its server knows InferStream.
        """
        self._node = node
        self._max_bytes = max_bytes
        self._streams = streams
        self._max_samples = settings.max_samples
        self._most_samples = f"{settings.max_samples} ({settings.variable('max_samples')})"
        self._limits = settings.image_limits
        # Most callers have one operating point, and send the same θ with every call.
        self._thetas = lru_cache(64)(partial(checked_thetas, manifest=node.tier.manifest))

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:
        """What this node serves."""
        tier = self._node.tier
        return pb.DescribeResponse(
            bundle_id=tier.manifest.bundle_id,
            tier=self._node.name,
            first_block=tier.start,
            last_block=tier.stop,
            codecs=SUPPORTED_CODECS,
            max_pixels=self._limits.max_pixels,
            max_samples=self._max_samples,
            takes_pixels=True,
            max_bytes=self._max_bytes,
            behind=_behind(self._node.behind),
            streams=self._streams,
        )

    async def Infer(self, request: pb.InferRequest, context: Context) -> pb.InferResponse:
        """Answer every sample of a call."""
        try:
            return await self._answered(request, context)
        except Exception as error:  # noqa: BLE001 - whatever happens, the caller gets a status
            await context.abort(*_refused(error, self._node.metrics))

    async def InferStream(
        self, requests: AsyncIterator[pb.InferRequest], context: Context
    ) -> AsyncIterator[pb.InferResponse]:
        """Answer or refuse one request after another, until there are no more."""
        async for request in requests:
            try:
                response = await self._answered(request, context)
            except Exception as error:  # noqa: BLE001 - whatever happens, the caller gets a status
                status, reason = _refused(error, self._node.metrics)
                response = pb.InferResponse(refusal=pb.Refusal(status=status.value[0], reason=reason))
            del request  # the caller may take its time to read the answer
            yield response

    async def _answered(self, request: pb.InferRequest, context: Context) -> pb.InferResponse:
        self._check(request)
        answers = await self._node.classify(self._call(request, context))
        _check_finite(answers)
        # Logged once the answer is on its way.
        asyncio.get_running_loop().call_soon(_log_answers, list(request.request_ids), answers)
        return _response(request, answers, self._node.behind)

    def _check(self, request: pb.InferRequest) -> None:
        tier = self._node.tier
        mine = tier.manifest.bundle_id
        if request.bundle_id != mine:
            raise BundleMismatchError(
                f"caller runs bundle '{request.bundle_id}', {self._node.name} runs '{mine}'; "
                "deploy the same bundle to both tiers"
            )
        if not 1 <= len(request.request_ids) <= self._max_samples:
            raise RequestError(
                f"{len(request.request_ids)} samples in one call, expected 1 to {self._most_samples}; send fewer"
            )
        longest = max(map(len, request.request_ids))
        if longest > _LONGEST_ID:
            raise RequestError(f"request id of {longest} characters, expected at most {_LONGEST_ID}")
        together = "".join(request.request_ids)
        if not (together.isascii() and together.isprintable()):
            raise RequestError("request id with characters that cannot be printed; use ASCII")
        if not tier.start <= request.next_block <= tier.stop:
            raise RequestError(
                f"next_block is {request.next_block}, but {self._node.name} runs blocks {tier.start} to {tier.stop}"
            )
        if request.next_block == 1 or request.images or request.pixels:
            _check_pictures(request)

    def _call(self, request: pb.InferRequest, context: Context) -> Call:
        manifest = self._node.tier.manifest
        thetas = self._thetas(tuple(request.thetas))
        if files := request.images or request.pixels:
            opened = open_images(files, limits=self._limits)
            decode = opened.decode if request.images else opened.pixels
            load, is_light = partial(decode, manifest.preprocessing), opened.is_light
            samples = list(map(Sample, request.request_ids, opened.files, opened.num_pixels))
        else:
            samples = list(map(Sample, request.request_ids))
            load, is_light = (
                partial(
                    decode_feature,
                    request.feature,
                    block=manifest.blocks[request.next_block - 2],
                    num_samples=len(samples),
                ),
                True,
            )
        remaining_s = context.time_remaining()
        if remaining_s is None and request.timeout_ms:
            remaining_s = request.timeout_ms / 1000
        return Call(
            samples=samples,
            thetas=thetas,
            first_block=request.next_block,
            load=load,
            is_light=is_light,
            deadline=math.inf if remaining_s is None else time.monotonic() + remaining_s,
            traceparent=request.traceparent or _traceparent(context),
        )


def _check_pictures(request: pb.InferRequest) -> None:
    pictures = {"images": request.images, "pixels": request.pixels}
    given = [kind for kind, files in pictures.items() if files]
    has_feature = request.HasField("feature")
    if len(given) + has_feature > 1:
        raise RequestError(f"{' and '.join([*given, *['a feature'] * has_feature])}; send one of them")
    for kind in given:
        if (request.next_block, len(pictures[kind])) != (1, len(request.request_ids)):
            raise RequestError(
                f"{len(pictures[kind])} {kind} for block {request.next_block}; {kind} go to block 1, one for each "
                f"of the {len(request.request_ids)} samples"
            )
    if not given:
        raise FeatureError("block 1 takes images or pixels, not a feature tensor")


def _traceparent(context: Context) -> str | None:
    for name, value in context.invocation_metadata() or ():
        if name == TRACEPARENT:
            return value if isinstance(value, str) else None
    return None


def _check_finite(answers: Answers) -> None:
    confidences = ((sample.answer.confidence, *sample.answer.passed) for sample in answers.samples)
    if not all(map(math.isfinite, chain.from_iterable(confidences))):
        raise FeatureError(
            "feature leads to an answer that is not a number; no block's output has such values"
        )


def _refused(error: Exception, metrics: NodeMetrics) -> tuple[grpc.StatusCode, str]:
    """The status of an error, and what the caller is told: of an unexpected one, no internals."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            metrics.refused(status.name.lower())
            _log.warning(line("refused", status=status.name, detail=error))
            return status, str(error)
    metrics.refused("internal")
    _log.error("a call failed with an unexpected error", exc_info=error)
    return grpc.StatusCode.INTERNAL, "this node failed; its log says why"


def _behind(state: UpstreamState | None) -> pb.Behind | None:
    if state is None:
        return None
    return pb.Behind(target=state.target, up=state.up, reason=state.reason or "")


def _response(request: pb.InferRequest, answers: Answers, behind: UpstreamState | None) -> pb.InferResponse:
    messages = [
        pb.Answer(
            request_id=request_id,
            probabilities=probabilities_to_bytes(sample.answer.probabilities),
            confidence=sample.answer.confidence,
            exit_number=sample.answer.exit_number,
            tier=sample.tier,
            degraded_reason=sample.degraded_reason or "",
            passed=sample.answer.passed,
            unfamiliar=sample.answer.unfamiliar,
        )
        for request_id, sample in zip(request.request_ids, answers.samples, strict=True)
    ]
    times = [pb.TierTime(tier=t.tier, queue_ms=t.queue_ms, compute_ms=t.compute_ms) for t in answers.times]
    lost = _behind(behind) if behind and not behind.up else None
    return pb.InferResponse(answers=messages, times=times, behind=lost)


def _log_answers(request_ids: Sequence[str], answers: Answers) -> None:
    if not _log.isEnabledFor(logging.INFO):
        return
    own = answers.times[0]
    for request_id, sample in zip(request_ids, answers.samples, strict=True):
        _log.info(
            line(
                "answered",
                request=request_id,
                exit=sample.answer.exit_number,
                tier=sample.tier,
                confidence=sample.answer.confidence,
                degraded=bool(sample.degraded_reason),
                queue_ms=own.queue_ms,
                compute_ms=own.compute_ms,
            )
        )
