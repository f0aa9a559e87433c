"""`offramp edge`, or `python -m edge_node`: reads settings, builds the parts, runs them."""

from __future__ import annotations

import asyncio
import socket
import sys

import uvloop

from edge_node.settings import EdgeSettings
from offramp.bundle import Bundle, Manifest
from offramp.command import run_command
from offramp.errors import ConfigError
from offramp.logs import start_logging
from offramp.serving.ending import end_when_told
from offramp.serving.running import block_range, running_node, spare_collections


class Edge(EdgeSettings):
    """Serve the first blocks of a bundle over REST.

    Every option can also be an environment variable (EDGE_PORT=8000) or a key in the --config file (port = 8000).

    Example: offramp edge models/b-lenet-fashion --upstream localhost:50051 --port 8000
    """

    def execute(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        end_when_told()
        start_logging(self.log_level)
        # Imported here, so that `offramp` can list this command without the extra `edge`.
        from edge_node.server import bound_socket

        self.check_limits()
        loaded = self.load_bundle()
        chosen = _blocks(self, loaded.manifest)
        with bound_socket(self) as listening:
            if self.processes > 1:
                from edge_node.processes import serve_in_processes

                serve_in_processes(self, loaded.manifest, chosen, listening)
            else:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(_serve(self, loaded, chosen, listening))


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
    from edge_node.server import address_of, log_ready, serve

    async with running_node(settings, bundle, blocks) as node:
        log_ready(settings, bundle.manifest, blocks, address_of(settings, listening))
        spare_collections()
        await serve(edge_app(node, settings), listening, settings)


if __name__ == "__main__":
    run_command(Edge, sys.argv[1:], program="python -m edge_node")
