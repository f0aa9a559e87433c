"""The gRPC front door: checks a call, gives it to the node, translates answers and errors."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NoReturn, Protocol

import grpc
from numpy.typing import NDArray

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
from offramp.serving.batching import Call
from offramp.serving.metrics import NodeMetrics
from offramp.serving.node import Batch, Node
from offramp.serving.tracing import HEADER
from offramp.wire.codec import SUPPORTED_CODECS, decode_feature
from offramp.wire.messages import probabilities_to_bytes
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceServicer

_log = logging.getLogger("cloud_node")

# The first row that fits decides. Anything that is not here is a bug: INTERNAL.
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
    """What the servicer asks of a call: `grpc.aio`'s own context has it, and other servers' can be given it."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None without one."""
        ...

    def invocation_metadata(self) -> Any:
        """Pairs of name and value that came beside the message."""
        ...

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        """End the call with a status."""
        ...


class TierServicer(TierServiceServicer):
    """Serves one node's tier."""

    def __init__(self, node: Node, *, max_samples: int) -> None:
        """Serve `node`; a call may carry up to `max_samples` samples."""
        self._node = node
        self._max_samples = max_samples

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:
        """What this node serves."""
        tier = self._node.tier
        return pb.DescribeResponse(
            bundle_id=tier.manifest.bundle_id,
            tier=self._node.name,
            first_block=tier.start,
            last_block=tier.stop,
            codecs=SUPPORTED_CODECS,
        )

    async def Infer(self, request: pb.InferRequest, context: Context) -> pb.InferResponse:
        """Answer every sample of a call."""
        async with _translated(context, self._node.metrics):
            self._check(request)
            batch = await self._classify(request, context)
            _check_finite(batch)
        # Written once the answer is on its way.
        asyncio.get_running_loop().call_soon(_log_answers, list(request.request_ids), batch)
        return _response(request, batch)

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
                f"{len(request.request_ids)} samples in one call, expected 1 to {self._max_samples}; send fewer"
            )
        longest = max(map(len, request.request_ids))
        if longest > _LONGEST_ID:
            raise RequestError(f"request id of {longest} characters, expected at most {_LONGEST_ID}")
        if not tier.start <= request.next_block <= tier.stop:
            raise RequestError(
                f"next_block is {request.next_block}, but {self._node.name} runs blocks {tier.start} to {tier.stop}"
            )
        if request.images and request.HasField("feature"):
            raise RequestError("both images and a feature; send one of them")
        if request.images and (request.next_block, len(request.images)) != (1, len(request.request_ids)):
            raise RequestError(
                f"{len(request.images)} images for block {request.next_block}; images go to block 1, one for each of "
                f"the {len(request.request_ids)} samples"
            )
        if request.next_block == 1 and not request.images:
            raise FeatureError("block 1 takes images, not a feature tensor")

    async def _classify(self, request: pb.InferRequest, context: Context) -> Batch:
        manifest = self._node.tier.manifest
        thetas = checked_thetas(request.thetas, manifest)
        images = list(request.images)
        load: Callable[[], NDArray[Any]]
        is_light = True
        if images:
            opened = open_images(images)
            load, is_light = partial(opened.decode, manifest.preprocessing), opened.is_light
        else:
            load = partial(
                decode_feature,
                request.feature,
                block=manifest.blocks[request.next_block - 2],
                num_samples=len(request.request_ids),
            )
        remaining_s = context.time_remaining()
        call = Call(
            load=load,
            thetas=thetas,
            num_samples=len(request.request_ids),
            first_block=request.next_block,
            deadline=None if remaining_s is None else time.monotonic() + remaining_s,
            is_light=is_light,
        )
        return await self._node.classify(
            call,
            request_ids=request.request_ids,
            images=images or None,
            traceparent=_traceparent(context),
        )


def _traceparent(context: Context) -> str | None:
    found = dict(context.invocation_metadata() or ()).get(HEADER)
    return found if isinstance(found, str) else None


def _check_finite(batch: Batch) -> None:
    if not all(math.isfinite(sample.answer.confidence) for sample in batch.samples):
        raise FeatureError(
            "feature leads to an answer that is no number: its values are beyond any block's output"
        )


@asynccontextmanager
async def _translated(context: Context, metrics: NodeMetrics) -> AsyncIterator[None]:
    try:
        yield
    except OfframpError as error:
        for kind, status in _STATUS:
            if isinstance(error, kind):
                metrics.refused(status.name.lower())
                _log.warning(line("refused", status=status.name, detail=error))
                await context.abort(status, str(error))
        raise
    except Exception:  # noqa: BLE001 - whatever happens, the caller gets a status and nothing of our insides
        metrics.refused("internal")
        _log.exception("a call failed for a reason this node does not know")
        await context.abort(grpc.StatusCode.INTERNAL, "this node failed; its log says how")


def _response(request: pb.InferRequest, batch: Batch) -> pb.InferResponse:
    answers = [
        pb.Answer(
            request_id=request_id,
            probabilities=probabilities_to_bytes(sample.answer.probabilities),
            confidence=sample.answer.confidence,
            exit_number=sample.answer.exit_number,
            tier=sample.tier,
            degraded_reason=sample.degraded_reason or "",
        )
        for request_id, sample in zip(request.request_ids, batch.samples, strict=True)
    ]
    times = [pb.TierTime(tier=t.tier, queue_ms=t.queue_ms, compute_ms=t.compute_ms) for t in batch.times]
    return pb.InferResponse(answers=answers, times=times)


def _log_answers(request_ids: Sequence[str], batch: Batch) -> None:
    if not _log.isEnabledFor(logging.INFO):
        return
    own = batch.times[0]
    for request_id, sample in zip(request_ids, batch.samples, strict=True):
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
