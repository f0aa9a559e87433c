"""Builds a running node from its settings; both entry points do this before they open their front door."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from offramp.bundle import Bundle, Manifest
from offramp.bundle.precision import doubts_about
from offramp.engine.payload import PayloadRule, is_lossy
from offramp.engine.runtime import load_blocks
from offramp.engine.tier import Tier
from offramp.errors import ConfigError
from offramp.logs import line
from offramp.serving.batching import Batcher
from offramp.serving.crowd import Crowd
from offramp.serving.decoding.decoders import Decoders
from offramp.serving.gain import gaining_batch
from offramp.serving.node import Node
from offramp.serving.offload import Offloader
from offramp.serving.offload.channel import UpstreamSettings
from offramp.serving.offload.grpc import GrpcOffloader
from offramp.serving.offload.payload import ChosenPayloads
from offramp.serving.offload.sharing import SharedCalls
from offramp.serving.settings import NodeSettings
from offramp.serving.tracing import tracer_to

_log = logging.getLogger("offramp.serving")

_NEW_OBJECTS = 10_000  # between two garbage collections


def block_range(settings: NodeSettings, manifest: Manifest, *, default: tuple[int, int]) -> tuple[int, int]:
    """First and last block of a node's tier.

    Raises:
        ConfigError: the bundle does not have these blocks, they leave samples unanswered because there is no upstream,
            or they reach the end, so that the upstream would never be asked.
    """
    first, last = default
    if settings.blocks:
        first, last = (int(number) for number in settings.blocks.split("-"))
    count = len(manifest.blocks)
    if last > count:
        raise ConfigError(
            f"blocks {first}-{last} asked for, but bundle '{manifest.bundle_id}' has only {count}"
        )
    if last < count and not settings.upstream:
        raise ConfigError(
            f"blocks {first}-{last} of {count} leave hard samples unanswered; give --upstream HOST:PORT, "
            f"or --blocks {first}-{count}"
        )
    if last == count and settings.upstream:
        raise ConfigError(
            f"blocks {first}-{last} reach the end of the network, so upstream {settings.upstream} would never be "
            f"asked; leave --upstream out, or give --blocks {first}-LAST with LAST below {count}"
        )
    return first, last


@asynccontextmanager
async def running_node(
    settings: NodeSettings, bundle: Bundle, blocks: tuple[int, int]
) -> AsyncIterator[Node]:
    """Load the blocks, connect to the upstream, and release everything at the end.

    Raises:
        BundleError: a graph cannot be loaded.
        ConfigError: the package of the chosen runtime is missing.
        BundleMismatchError: the upstream runs a different bundle.
    """
    first, last = blocks
    manifest = bundle.manifest
    for doubt in doubts_about(manifest):
        _log.warning(line("int8_here", detail=doubt))
    loaded = load_blocks(
        bundle, first, last, runtime=settings.runtime, threads=settings.threads, workers=settings.workers
    )
    tier = Tier(manifest, loaded, start=first)
    crowd = Crowd()
    async with AsyncExitStack() as stack:
        upstream = None
        if settings.upstream:
            upstream = await stack.enter_async_context(
                _running_upstream(settings, settings.upstream, manifest, crowd, split_point=last + 1)
            )
        tracing = tracer_to(settings.otlp_endpoint, service=settings.tier, share=settings.trace_share)
        tracer = stack.enter_context(tracing)
        node = Node(
            tier,
            name=settings.tier,
            upstream=upstream,
            offload_timeout_s=settings.offload_timeout_s,
            batcher=Batcher(
                tier,
                workers=settings.workers,
                max_batch=settings.max_batch,
                gaining=gaining_batch(tier, most=settings.max_batch),
                window_s=settings.batch_window_ms / 1000,
            ),
            decoders=Decoders(settings.decoding_limits),
            max_pending=settings.max_pending,
            crowd=crowd,
            tracer=tracer,
        )
        stack.callback(node.close)
        yield node


def spare_collections() -> None:
    """Leave what is loaded out of garbage collections, and collect less often; for an entry point that is ready."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, 10, 10)


@asynccontextmanager
async def _running_upstream(
    settings: NodeSettings, target: str, manifest: Manifest, crowd: Crowd, *, split_point: int
) -> AsyncIterator[Offloader]:
    codec = manifest.codec_at(split_point)
    rule = PayloadRule.at(manifest, split_point, settings.payload)
    async with GrpcOffloader(
        UpstreamSettings(
            target=target,
            health_check=settings.upstream_health_check,
            certificates=settings.upstream_certificate_files,
            certificate_name=settings.upstream_tls_name,
            api_key=settings.upstream_api_key,
        ),
        manifest,
        tier=settings.tier,
        split_point=split_point,
        codec=codec,
        payload=rule.payload,
    ) as asked:
        _warn_of_payload(manifest, rule, asked)
        yield ChosenPayloads(
            SharedCalls(asked, crowd, window_s=settings.offload_window_ms / 1000),
            rule,
            passed_exits=sum(block < split_point for block in manifest.exit_blocks),
        )


def _warn_of_payload(manifest: Manifest, rule: PayloadRule, upstream: Offloader) -> None:
    point = manifest.operating_point
    if rule.payload != point.payload and is_lossy(rule.payload):
        _log.warning(
            line(
                "payload_not_calibrated",
                payload=rule.payload,
                calibrated=point.payload,
                detail="accuracy and certificates of the bundle are not about it; `offramp calibrate --payload` makes "
                "some that are",
            )
        )
    elif is_lossy(rule.payload) and point.certificate is None:
        _log.warning(
            line(
                "payload_not_certified",
                payload=rule.payload,
                point=point.name,
                detail="what it costs in accuracy was measured on held-out samples only; `offramp calibrate "
                "--guarantee` says how much it can be beyond them",
            )
        )
    accepts = upstream.accepts.besides_features
    if upstream.state.up and not accepts and rule.feature_bytes > rule.raw_bytes:
        _log.warning(
            line(
                "feature_larger_than_picture",
                feature_bytes=round(rule.feature_bytes),
                picture_bytes=rule.raw_bytes,
                detail="an upstream that runs all blocks takes pictures as well; give it --blocks from 1",
            )
        )
