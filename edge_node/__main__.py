"""`offramp edge`, or `python -m edge_node`: reads settings, builds the parts, runs them."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Annotated, get_args

import typer
import uvloop

from edge_node.settings import EdgeSettings
from offramp.bundle import Bundle, Manifest, load_bundle
from offramp.cli.errors import told_in_one_line
from offramp.engine.runtime import Runtime
from offramp.errors import ConfigError
from offramp.logs import start_logging
from offramp.serving.running import block_range, running_node


@told_in_one_line
def edge(
    bundle: Annotated[Path | None, typer.Option(help="Bundle directory.")] = None,
    upstream: Annotated[
        str | None, typer.Option(help="HOST:PORT of the cloud node; without it all blocks run here.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    blocks: Annotated[str | None, typer.Option(help="Blocks to run, 1-LAST; up to the split point.")] = None,
    tier: Annotated[str | None, typer.Option(help="Name of this tier in answers and logs.")] = None,
    processes: Annotated[
        int | None, typer.Option(help="Processes behind the port, for as many cores; 1 unless given.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help=f"What runs the blocks: {', '.join(get_args(Runtime))}.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads that share one block.")] = None,
    otlp_endpoint: Annotated[
        str | None, typer.Option(help="Where spans go, over HTTP; nowhere unless given.")
    ] = None,
) -> None:
    """Serve the first blocks over REST. Every setting can also come from EDGE_*, as in EDGE_PORT=8000.

    Example: offramp edge --bundle models/b-lenet-fashion --upstream localhost:50051 --port 8000
    """
    start_logging()
    settings = EdgeSettings.read(
        os.environ,
        bundle=bundle,
        upstream=upstream,
        host=host,
        port=port,
        blocks=blocks,
        tier=tier,
        processes=processes,
        runtime=runtime,
        threads=threads,
        otlp_endpoint=otlp_endpoint,
    )
    start_logging(settings.log_level)
    # Here, so that `offramp` lists this command where the extra `edge` is missing.
    from edge_node.server import bound_socket

    loaded = load_bundle(settings.bundle)
    chosen = _blocks(settings, loaded.manifest)
    with bound_socket(settings) as listening:
        if settings.processes > 1:
            from edge_node.processes import serve_in_processes

            serve_in_processes(settings, loaded.manifest, chosen, listening)
        else:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(settings, loaded, chosen, listening))


def _blocks(settings: EdgeSettings, manifest: Manifest) -> tuple[int, int]:
    count = len(manifest.blocks)
    last = min(manifest.operating_point.split_point - 1, count) if settings.upstream else count
    blocks = block_range(settings, manifest, default=(1, last))
    if blocks[0] != 1:
        raise ConfigError(
            f"blocks {settings.blocks} asked for, but an edge node takes images: it begins with block 1"
        )
    return blocks


async def _serve(
    settings: EdgeSettings, bundle: Bundle, blocks: tuple[int, int], listening: socket.socket
) -> None:
    from edge_node.app import edge_app
    from edge_node.server import log_ready, serve

    async with running_node(settings, bundle, blocks) as node:
        log_ready(settings, bundle.manifest, blocks, f"{settings.host}:{listening.getsockname()[1]}")
        await serve(edge_app(node, settings), listening, settings)


if __name__ == "__main__":
    typer.run(edge)
