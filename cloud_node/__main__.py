"""`offramp cloud`, or `python -m cloud_node`: reads settings, builds the parts, runs them."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Annotated, get_args

import typer
import uvloop

from cloud_node.settings import CloudSettings
from offramp.bundle import load_bundle
from offramp.cli.errors import told_in_one_line
from offramp.engine.runtime import Runtime
from offramp.logs import line, start_logging
from offramp.serving.running import block_range, running_node


@told_in_one_line
def cloud(
    bundle: Annotated[Path | None, typer.Option(help="Bundle directory.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    blocks: Annotated[
        str | None,
        typer.Option(
            help="Blocks to run, FIRST-LAST; all of them unless given. One that runs block 1 also takes images."
        ),
    ] = None,
    upstream: Annotated[
        str | None, typer.Option(help="HOST:PORT of the next tier, which makes this a middle tier.")
    ] = None,
    tier: Annotated[str | None, typer.Option(help="Name of this tier in answers and logs.")] = None,
    runtime: Annotated[
        str | None, typer.Option(help=f"What runs the blocks: {', '.join(get_args(Runtime))}.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads that share one block.")] = None,
    otlp_endpoint: Annotated[
        str | None, typer.Option(help="Where spans go, over HTTP; nowhere unless given.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of /metrics, over HTTP; none unless given.")
    ] = None,
) -> None:
    """Serve the deeper blocks over gRPC. Every setting can also come from CLOUD_*, as in CLOUD_PORT=50051.

    Example: offramp cloud --bundle models/b-lenet-fashion --port 50051
    """
    start_logging()
    settings = CloudSettings.read(
        os.environ,
        bundle=bundle,
        host=host,
        port=port,
        blocks=blocks,
        upstream=upstream,
        tier=tier,
        runtime=runtime,
        threads=threads,
        otlp_endpoint=otlp_endpoint,
        metrics_port=metrics_port,
    )
    start_logging(settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


async def _serve(settings: CloudSettings) -> None:
    from cloud_node.server import CloudServer, until_told_to_stop

    bundle = load_bundle(settings.bundle)
    manifest = bundle.manifest
    # All of them: whatever the edges split at, and images, if those are smaller than features.
    blocks = block_range(settings, manifest, default=(1, len(manifest.blocks)))
    async with running_node(settings, bundle, blocks) as node:
        server = CloudServer(node, settings)
        await server.start()
        log = logging.getLogger("cloud_node")
        log.info(
            line(
                "ready",
                tier=settings.tier,
                address=f"{settings.host}:{server.port}",
                blocks=f"{blocks[0]}-{blocks[1]}",
                runtime=settings.runtime,
                bundle=manifest.bundle_id,
            )
        )
        await until_told_to_stop()
        log.info(line("draining", tier=settings.tier))
        await server.drain()


if __name__ == "__main__":
    typer.run(cloud)
